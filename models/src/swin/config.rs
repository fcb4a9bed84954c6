//! Sizes of a Swin, by timm's argument names.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use stage::{Error, Result, ResultExt};

use crate::layers::Layout;
use crate::shapes::Role;

/// The arguments of timm's `SwinTransformer`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SwinConfig {
    /// Side of the square input, pixels, a multiple of `patch_size`.
    pub img_size: usize,
    /// Side of a patch, pixels.
    pub patch_size: usize,
    /// Classes of the head; 0 for none.
    pub num_classes: usize,
    /// Width of a token of the first stage; each further stage doubles it.
    pub embed_dim: usize,
    /// Blocks of each stage.
    pub depths: Vec<usize>,
    /// Attention heads of each stage.
    pub num_heads: Vec<usize>,
    /// Side of a window, patches.
    pub window_size: usize,
    /// Hidden width of the FFN over the token's.
    pub mlp_ratio: f64,
    /// Whether queries, keys and values have a bias.
    pub qkv_bias: bool,
}

impl Default for SwinConfig {
    /// Swin-T.
    fn default() -> Self {
        Self {
            img_size: 224,
            patch_size: 4,
            num_classes: 1000,
            embed_dim: 96,
            depths: vec![2, 2, 6, 2],
            num_heads: vec![3, 6, 12, 24],
            window_size: 7,
            mlp_ratio: 4.0,
            qkv_bias: true,
        }
    }
}

/// Name, width, depth of the third stage, heads of the first.
const NAMED: &[(&str, usize, usize, usize)] = &[
    ("swin_tiny_patch4_window7_224", 96, 6, 3),
    ("swin_small_patch4_window7_224", 96, 18, 3),
    ("swin_base_patch4_window7_224", 128, 18, 4),
];

/// Largest value of any size; keeps a hostile file from asking for all memory.
const LARGEST: usize = 1 << 14;

/// A stage with all its sizes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct StageSizes {
    pub(super) width: usize,
    pub(super) heads: usize,
    pub(super) depth: usize,
    /// Side of the grid of tokens.
    pub(super) grid: usize,
    /// Side of the grid that was merged into this one.
    pub(super) merged: Option<usize>,
    /// Side of a window: the grid's if that is smaller.
    pub(super) window: usize,
    /// Shift of every second block: none if one window covers the grid.
    pub(super) shift: usize,
    pub(super) qkv_bias: bool,
    pub(super) hidden: usize,
}

impl SwinConfig {
    /// A model of timm's: `swin_tiny_patch4_window7_224`, `swin_small_…`, `swin_base_…`.
    ///
    /// # Errors
    /// An unknown name; the hint lists all.
    pub fn named(name: &str) -> Result<Self> {
        let row = NAMED.iter().find(|(known, ..)| *known == name);
        let Some((_, embed_dim, third, heads)) = row else {
            return Err(Error::recipe(format!("no Swin named `{name}`"))
                .hint(format!("name one of {}", Self::names().collect::<Vec<_>>().join(", "))));
        };
        Ok(Self {
            embed_dim: *embed_dim,
            depths: vec![2, 2, *third, 2],
            num_heads: vec![*heads, 2 * heads, 4 * heads, 8 * heads],
            ..Self::default()
        })
    }

    /// The names that [`SwinConfig::named`] knows.
    pub fn names() -> impl Iterator<Item = &'static str> {
        NAMED.iter().map(|(name, ..)| *name)
    }

    /// Reads the JSON form: an object with the fields of this type, all optional.
    ///
    /// # Errors
    /// An unknown or ill-typed field, or sizes that do not go together.
    pub fn from_json(value: &Value) -> Result<Self> {
        let config: Self = serde_json::from_value(value.clone()).model("not a Swin")?;
        config.check()?;
        Ok(config)
    }

    /// Trainable parameters, from the configuration alone.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        self.layout().parameters()
    }

    fn check(&self) -> Result<()> {
        let wrong = |what: String| Err(Error::model(what));
        let sizes = [self.img_size, self.patch_size, self.embed_dim, self.window_size];
        let all = sizes.iter().chain(&self.depths).chain(&self.num_heads);
        if let Some(size) = all.into_iter().find(|size| !(1..=LARGEST).contains(*size)) {
            return wrong(format!("a size is {size}, expected 1..={LARGEST}"));
        }
        if self.num_classes > 1 << 20 || !(0.01..=64.0).contains(&self.mlp_ratio) {
            return wrong(format!(
                "num_classes {} and mlp_ratio {}, expected 0..=1048576 and 0.01..=64",
                self.num_classes, self.mlp_ratio
            ));
        }
        if self.depths.len() != self.num_heads.len() || !(1..=8).contains(&self.depths.len()) {
            return wrong(format!(
                "{} depths and {} num_heads, expected as many, 1..=8",
                self.depths.len(),
                self.num_heads.len()
            ));
        }
        if !self.img_size.is_multiple_of(self.patch_size) {
            return wrong(format!(
                "img_size {} is not a multiple of patch_size {}",
                self.img_size, self.patch_size
            ));
        }
        for (i, heads) in self.num_heads.iter().enumerate() {
            let width = self.embed_dim << i;
            if !width.is_multiple_of(*heads) {
                return wrong(format!("the width {width} is not a multiple of num_heads {heads}"));
            }
        }
        Ok(())
    }

    pub(super) fn stages(&self) -> Vec<StageSizes> {
        let mut grid = self.img_size / self.patch_size.max(1);
        let mut stages = Vec::new();
        for (i, (depth, heads)) in self.depths.iter().zip(&self.num_heads).enumerate() {
            let merged = (i > 0).then_some(grid);
            if merged.is_some() {
                grid = grid.div_ceil(2);
            }
            let width = self.embed_dim << i;
            let window = self.window_size.min(grid);
            stages.push(StageSizes {
                width,
                heads: *heads,
                depth: *depth,
                grid,
                merged,
                window,
                shift: if grid <= self.window_size { 0 } else { self.window_size / 2 },
                qkv_bias: self.qkv_bias,
                hidden: (width as f64 * self.mlp_ratio) as usize,
            });
        }
        stages
    }

    /// All tensors by timm's names.
    pub(super) fn layout(&self) -> Layout {
        let mut list = Layout::default();
        let bound = Role::Uniform(1.0 / ((3 * self.patch_size * self.patch_size) as f64).sqrt());
        let kernel = [self.embed_dim, 3, self.patch_size, self.patch_size];
        list.push("patch_embed.proj.weight", &kernel, bound);
        list.push("patch_embed.proj.bias", &[self.embed_dim], bound);
        list.norm("patch_embed.norm", self.embed_dim);
        let mut width = self.embed_dim;
        for (i, stage) in self.stages().iter().enumerate() {
            if stage.merged.is_some() {
                let at = format!("layers.{i}.downsample");
                list.norm(&format!("{at}.norm"), 2 * stage.width);
                list.linear(&format!("{at}.reduction"), stage.width, 2 * stage.width, false);
            }
            width = stage.width;
            for j in 0..stage.depth {
                let at = format!("layers.{i}.blocks.{j}");
                let offsets = 2 * stage.window - 1;
                list.norm(&format!("{at}.norm1"), width);
                list.push(
                    format!("{at}.attn.relative_position_bias_table"),
                    &[offsets * offsets, stage.heads],
                    Role::Normal(0.02),
                );
                list.linear(&format!("{at}.attn.qkv"), 3 * width, width, self.qkv_bias);
                list.linear(&format!("{at}.attn.proj"), width, width, true);
                list.norm(&format!("{at}.norm2"), width);
                list.mlp(&format!("{at}.mlp"), width, stage.hidden);
            }
        }
        list.norm("norm", width);
        if self.num_classes > 0 {
            list.linear("head.fc", self.num_classes, width, true);
        }
        list
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn parameters_are_those_of_timm() {
        // timm 1.0.31: sum(p.numel() for p in create_model(name).parameters())
        let count = |name| SwinConfig::named(name).unwrap().parameters();
        assert_eq!(count("swin_tiny_patch4_window7_224"), 28_288_354);
        assert_eq!(count("swin_small_patch4_window7_224"), 49_606_258);
        assert_eq!(count("swin_base_patch4_window7_224"), 87_768_224);
    }

    #[test]
    fn a_small_grid_shrinks_its_window_and_stops_the_shift() {
        let config = SwinConfig::named("swin_tiny_patch4_window7_224").unwrap();
        let sizes = |config: &SwinConfig| -> Vec<_> {
            config.stages().iter().map(|s| (s.grid, s.window, s.shift)).collect()
        };
        assert_eq!(sizes(&config), [(56, 7, 3), (28, 7, 3), (14, 7, 3), (7, 7, 0)]);
        let small = SwinConfig { img_size: 64, ..config };
        assert_eq!(sizes(&small), [(16, 7, 3), (8, 7, 3), (4, 4, 0), (2, 2, 0)]);
    }

    #[test]
    fn sizes_that_do_not_go_together_are_refused() {
        let check = |value: Value, expected: &str| {
            let message = SwinConfig::from_json(&value).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        };
        check(json!({"depths": [2], "num_heads": [1, 2]}), "1 depths and 2 num_heads");
        check(json!({"img_size": 225}), "img_size 225 is not a multiple of patch_size 4");
        check(json!({"embed_dim": 97}), "the width 97 is not a multiple of num_heads 3");
        check(json!({"window_size": 0}), "a size is 0");
        check(json!({"windows": 7}), "unknown field `windows`");
        assert!(SwinConfig::named("swin_huge").unwrap_err().hint_text().unwrap().contains("swin_"));
    }

    #[test]
    fn the_json_form_comes_back() {
        let config = SwinConfig::named("swin_base_patch4_window7_224").unwrap();
        let value = serde_json::to_value(&config).unwrap();
        assert_eq!(SwinConfig::from_json(&value).unwrap(), config);
    }
}
