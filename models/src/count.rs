//! Multiply-adds and memory of a model, from its configuration alone.
//!
//! There are two habits of counting multiply-adds (MACs), and tables do not say which. Both are
//! given: what ViTamin's paper prints (fvcore: convolutions, linear layers and five for every
//! element of a LayerNorm, no products of attention, no projection), and timm's (the same with the
//! products QKᵀ and A·V). open_clip's table prints twice the sum of convolutions, linear layers,
//! projection and attention.

use crate::config::{ClipConfig, TextConfig, VisionConfig, VitConfig, VitaminConfig};

/// Multiply-adds of one picture or one caption, by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Macs {
    /// Convolutions.
    pub convolution: u64,
    /// Linear layers but the projection.
    pub linear: u64,
    /// LayerNorms, five for an element.
    pub norm: u64,
    /// The products QKᵀ and A·V.
    pub attention: u64,
    /// The projection to the common space.
    pub projection: u64,
}

impl Macs {
    /// As in ViTamin's paper: without attention's products.
    #[must_use]
    pub fn without_attention(&self) -> u64 {
        self.convolution + self.linear + self.norm
    }

    /// As in timm's benchmark tables: with attention's products.
    #[must_use]
    pub fn with_attention(&self) -> u64 {
        self.without_attention() + self.attention
    }

    /// Multiply-adds of matrix products alone.
    #[must_use]
    pub fn products(&self) -> u64 {
        self.convolution + self.linear + self.attention + self.projection
    }

    /// Floating-point operations as in open_clip's `model_profile.csv`: two for each multiply-add
    /// of a matrix product.
    #[must_use]
    pub fn flops(&self) -> u64 {
        self.products().saturating_mul(2)
    }
}

/// Of the image tower, for one picture.
#[must_use]
pub fn image(config: &ClipConfig) -> Macs {
    let mut macs = match &config.vision {
        VisionConfig::Vit(vit) => plain(vit),
        VisionConfig::Vitamin(vitamin) => gated(vitamin),
    };
    macs.projection = (config.vision.width() * config.embed_dim) as u64;
    macs
}

/// Of the text tower, for one caption of the whole context.
#[must_use]
pub fn text(config: &ClipConfig) -> Macs {
    caption(config, config.text.context_length)
}

/// Of the text tower, for one caption of so many tokens: padding is never worked on.
#[must_use]
pub fn caption(config: &ClipConfig, tokens: usize) -> Macs {
    let TextConfig { width: c, layers, .. } = config.text;
    let (n, c, layers, h) = (tokens as u64, c as u64, layers as u64, config.text.hidden() as u64);
    Macs {
        linear: layers * n * (4 * c * c + 2 * c * h),
        norm: 5 * n * c * (2 * layers + 1),
        attention: layers * 2 * n * n * c,
        projection: c * config.embed_dim as u64,
        ..Macs::default()
    }
}

fn plain(v: &VitConfig) -> Macs {
    let (c, h, layers) = (v.width as u64, v.hidden() as u64, v.layers as u64);
    let (patches, pixels) = (v.patches() as u64, 3 * (v.patch_size * v.patch_size) as u64);
    let n = patches + 1;
    let norms = 2 * layers + 1 + u64::from(!v.no_ln_pre);
    Macs {
        convolution: patches * c * pixels,
        linear: layers * n * (4 * c * c + 2 * c * h),
        norm: 5 * n * c * norms,
        attention: layers * 2 * n * n * c,
        projection: 0,
    }
}

fn gated(v: &VitaminConfig) -> Macs {
    let mut macs = Macs::default();
    let area = |halvings: u32| {
        let side = (v.image_size >> halvings) as u64;
        side * side
    };
    let stem = v.stem_width as u64;
    macs.convolution += area(1) * 9 * stem * (3 + stem);
    macs.norm += 5 * area(1) * stem;
    let mut into = stem;
    for stage in 0..2 {
        let out = v.widths[stage] as u64;
        let middle = 4 * out;
        let (before, after) = (area(1 + stage as u32), area(2 + stage as u32));
        for i in 0..v.depths[stage] as u64 {
            let (here, before) = if i == 0 { (into, before) } else { (out, after) };
            macs.convolution += before * here * middle + after * middle * (9 + out);
            if here != out {
                macs.convolution += after * here * out;
            }
            macs.norm += 5 * before * here;
        }
        into = out;
    }
    let (c, n) = (v.width() as u64, v.tokens() as u64);
    macs.norm += 5 * area(3) * into;
    macs.convolution += n * 9 * into * c;
    let (h, depth) = (v.hidden() as u64, v.depths[2] as u64);
    macs.linear = depth * n * (4 * c * c + 3 * c * h);
    macs.norm += 5 * (depth * 3 * n * c + c);
    macs.attention = depth * 2 * n * n * c;
    macs
}

/// What a model is loaded for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Features only.
    Inference,
    /// A training step that keeps what lies between the layers.
    Training,
    /// A training step that keeps the inputs of the blocks and computes the rest again.
    Recompute,
}

/// Bytes of memory for batches of `batch` pairs.
///
/// An estimate of what this program allocates. For inference the parameters in f32 and a copy of
/// the weights of the blocks' linear layers, laid out for their products with `width` bytes a
/// number (4, or 2 for bf16); for training the parameters, their gradients and AdamW's two moments,
/// all in f32 at any precision. To that comes what lies between the layers, in f32: for inference
/// what is there at a time at the widest place of the larger tower, with the whole batch in it, which
/// is an upper bound where a batch goes through a tower in parts. Captions count as whole contexts.
/// Without the input pictures, code and decoders.
#[must_use]
pub fn memory(config: &ClipConfig, batch: u64, width: u64, purpose: Purpose) -> u64 {
    let parameters = config.parameters();
    let state = match purpose {
        Purpose::Inference => {
            4 * (parameters + patch_kernel(config)) + width * linear_weights(config)
        }
        Purpose::Training | Purpose::Recompute => 16 * parameters,
    };
    let towers = [image_kept(config), text_kept(config, config.text.context_length)];
    let numbers = match purpose {
        Purpose::Inference => towers.iter().map(|tower| tower.at_once).max().unwrap_or(0),
        Purpose::Training => towers.iter().map(Kept::all).sum::<u64>(),
        Purpose::Recompute => {
            let inputs: u64 =
                towers.iter().map(|tower| tower.stem + tower.blocks * tower.input).sum();
            inputs + towers.iter().map(|tower| tower.block).max().unwrap_or(0)
        }
    };
    state.saturating_add(batch.saturating_mul(numbers).saturating_mul(4))
}

/// Numbers of the kernel of a ViT's patches, of which inference keeps a copy in f32 in either format.
fn patch_kernel(config: &ClipConfig) -> u64 {
    config.vision.vit().map_or(0, |v| (v.width * 3 * v.patch_size * v.patch_size) as u64)
}

/// Numbers of the weights that [`crate::Clip::with_packed_weights`] and
/// [`crate::Clip::with_half_weights`] copy in their format: linear layers of the blocks of both towers, and
/// ViTamin's convolutions of single pixels.
fn linear_weights(config: &ClipConfig) -> u64 {
    let of = |layers: usize, c: usize, h: usize, ffn: u64| {
        let (c, h) = (c as u64, h as u64);
        layers as u64 * (4 * c * c + ffn * c * h)
    };
    let text = &config.text;
    let text = of(text.layers, text.width, text.hidden(), 2);
    let image = match &config.vision {
        VisionConfig::Vit(v) => of(v.layers, v.width, v.hidden(), 2),
        VisionConfig::Vitamin(v) => {
            let mut all = of(v.depths[2], v.width(), v.hidden(), 3);
            let mut into = v.stem_width as u64;
            for stage in 0..2 {
                let out = v.widths[stage] as u64;
                for _ in 0..v.depths[stage] {
                    all += 4 * out * (into + out);
                    if into != out {
                        all += into * out;
                    }
                    into = out;
                }
            }
            all
        }
    };
    image + text
}

/// Numbers that a forward pass of one sample keeps for the backward pass.
struct Kept {
    /// Before the blocks.
    stem: u64,
    /// Of one block, and of its input alone.
    block: u64,
    input: u64,
    blocks: u64,
    /// Numbers that are there at the same time without a backward pass, where they are most.
    at_once: u64,
}

impl Kept {
    fn all(&self) -> u64 {
        self.stem + self.blocks * self.block
    }
}

/// Numbers that the image tower keeps of one picture for the backward pass.
#[must_use]
pub fn kept_of_picture(config: &ClipConfig) -> u64 {
    image_kept(config).all()
}

/// Numbers that the text tower keeps of one caption of so many tokens for the backward pass.
#[must_use]
pub fn kept_of_caption(config: &ClipConfig, tokens: usize) -> u64 {
    text_kept(config, tokens).all()
}

/// Two norms, QKV, heads, two projections, three sums, both halves of the FFN; at once the result of
/// one layer twice over.
fn block(n: u64, c: u64, h: u64, blocks: u64, stem: u64) -> Kept {
    let at_once = 2 * n * (3 * c).max(h);
    Kept { stem, block: n * (11 * c + 2 * h), input: n * c, blocks, at_once }
}

fn text_kept(config: &ClipConfig, tokens: usize) -> Kept {
    let t = &config.text;
    let (n, c) = (tokens as u64, t.width as u64);
    block(n, c, t.hidden() as u64, t.layers as u64, 4 * n * c)
}

fn image_kept(config: &ClipConfig) -> Kept {
    match &config.vision {
        VisionConfig::Vit(v) => {
            let (n, c) = (v.patches() as u64 + 1, v.width as u64);
            let pixels = (v.patches() * 3 * v.patch_size * v.patch_size) as u64;
            block(n, c, v.hidden() as u64, v.layers as u64, 2 * pixels + 4 * n * c)
        }
        VisionConfig::Vitamin(v) => {
            let area = |halvings: u32| ((v.image_size >> halvings) as u64).pow(2);
            let mut stem = area(0) * 3 + area(1) * 4 * v.stem_width as u64;
            let mut into = v.stem_width as u64;
            let mut at_once = area(0) * 3 + 3 * area(1) * v.stem_width as u64;
            for stage in 0..2 {
                let out = v.widths[stage] as u64;
                let (before, after) = (area(1 + stage as u32), area(2 + stage as u32));
                for i in 0..v.depths[stage] {
                    let (here, before) = if i == 0 { (into, before) } else { (out, after) };
                    // Norm, two of the middle width before the stride and two behind it, shortcut
                    // and result.
                    stem += before * (here + 8 * out) + after * (8 * out + 3 * out);
                    // The block's input, its norm, and three of the middle width.
                    at_once = at_once.max(before * (2 * here + 12 * out));
                }
                into = out;
            }
            let (n, c, h) = (v.tokens() as u64, v.width() as u64, v.hidden() as u64);
            stem += area(3) * into + 3 * n * c;
            // One norm and one hidden width more than a plain block.
            let block = n * (12 * c + 3 * h);
            // Input, norm and both halves of the gate with their product; or QKV twice.
            at_once = at_once.max(n * (2 * c + 3 * h).max(6 * c));
            Kept { stem, block, input: n * c, blocks: v.depths[2] as u64, at_once }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> ClipConfig {
        ClipConfig::named(name).unwrap()
    }

    #[test]
    fn vitamins_multiply_adds_equal_fvcores_by_kind() {
        // systems-models-tasks §0.2, measured with fvcore 0.1.5: total, conv, linear, layer_norm.
        for (name, total, convolution, linear, norm) in [
            ("ViTamin-S", 5_502_251_904, 1_428_209_664, 4_046_192_640, 27_849_600),
            ("ViTamin-B", 21_852_153_600, 5_611_683_840, 16_184_770_560, 55_699_200),
            ("ViTamin-L", 72_607_687_680, 8_772_771_840, 63_711_477_760, 123_438_080),
            ("ViTamin-L2", 72_607_687_680, 8_772_771_840, 63_711_477_760, 123_438_080),
            ("ViTamin-L-256", 94_834_529_280, 11_458_314_240, 83_214_991_360, 161_223_680),
            ("ViTamin-L-336", 163_367_290_880, 19_738_736_640, 143_350_824_960, 277_729_280),
            ("ViTamin-L-384", 213_377_684_480, 25_781_207_040, 187_233_730_560, 362_746_880),
            ("ViTamin-XL-256", 125_297_497_728, 16_392_388_608, 108_716_359_680, 188_749_440),
            ("ViTamin-XL-336", 215_844_513_408, 28_238_450_688, 187_280_916_480, 325_146_240),
            ("ViTamin-XL-384", 281_919_362_688, 36_882_874_368, 244_611_809_280, 424_679_040),
        ] {
            let macs = image(&named(name));
            assert_eq!(
                (macs.without_attention(), macs.convolution, macs.linear, macs.norm),
                (total, convolution, linear, norm),
                "{name}"
            );
        }
    }

    #[test]
    fn vitamins_multiply_adds_with_attention_equal_timms_table() {
        for (name, giga) in [
            ("ViTamin-S", 5.92),
            ("ViTamin-B", 22.68),
            ("ViTamin-L", 75.05),
            ("ViTamin-L-256", 99.0),
            ("ViTamin-L-336", 175.72),
            ("ViTamin-L-384", 234.44),
            ("ViTamin-L2", 75.05),
            ("ViTamin-L2-256", 99.0),
            ("ViTamin-L2-336", 175.72),
            ("ViTamin-L2-384", 234.44),
            ("ViTamin-XL-256", 130.13),
            ("ViTamin-XL-336", 230.18),
            ("ViTamin-XL-384", 306.38),
        ] {
            let macs = image(&named(name)).with_attention() as f64 / 1e9;
            // L-336 is 175.7145 here and 175.72 there.
            assert!((macs - giga).abs() <= 0.006, "{name}: {macs}");
        }
    }

    #[test]
    fn plain_vits_equal_open_clips_profile_and_the_papers_column() {
        // GFLOPs of image, text and both in open_clip's csv; ViTamin's MODEL_HUB MACs.
        for (name, image_flops, text_flops, both, paper) in [
            ("ViT-S-32", 2.29, 3.38, 5.66, Some(1.12)),
            ("ViT-S-16", 9.20, 3.38, 12.58, Some(4.25)),
            ("ViT-B-32", 8.82, 5.96, 14.78, Some(4.37)),
            ("ViT-B-16", 35.13, 5.96, 41.09, Some(16.87)),
            ("ViT-L-16", 123.11, 13.30, 136.41, Some(59.70)),
            ("ViT-L-14", 162.03, 13.30, 175.33, Some(77.83)),
            ("ViT-H-14", 334.59, 47.09, 381.68, None),
        ] {
            let config = named(name);
            let (image, text) = (image(&config), text(&config));
            let near = |macs: u64, printed: f64| (macs as f64 / 1e9 - printed).abs() <= 0.0101;
            assert!(near(image.flops(), image_flops), "{name}: {}", image.flops());
            assert!(near(text.flops(), text_flops), "{name}: {}", text.flops());
            assert!(near(image.flops() + text.flops(), both), "{name}");
            if let Some(paper) = paper {
                assert!(near(image.without_attention(), paper), "{name}: {image:?}");
            }
        }
    }

    #[test]
    fn inference_holds_the_parameters_and_a_copy_of_the_linear_weights() {
        let config = named("ViT-B-32");
        // 12 blocks of 4c² + 2ch of either tower: c = 768, h = 3072 and c = 512, h = 2048.
        let copied = 84_934_656 + 37_748_736;
        assert_eq!(config.parameters(), 151_277_313);
        // The kernel of the patches, 768 x 3 x 32 x 32, is copied in f32.
        let all = 151_277_313 + 2_359_296;
        assert_eq!(memory(&config, 0, 4, Purpose::Inference), 4 * (all + copied));
        assert_eq!(memory(&config, 0, 2, Purpose::Inference), 4 * all + 2 * copied);
        // Twice the FFN's hidden numbers of 77 tokens, or of 50 tokens of the wider tower: f32.
        let batch =
            memory(&config, 3, 2, Purpose::Inference) - memory(&config, 0, 2, Purpose::Inference);
        assert_eq!(batch, 3 * 4 * 2 * 77 * 2048);
        for width in [2, 4] {
            assert_eq!(memory(&config, 0, width, Purpose::Training), 16 * 151_277_313);
        }
    }

    #[test]
    fn inference_of_a_vitamin_holds_three_results_of_its_widest_block() {
        let config = named("ViTamin-S");
        let of = |batch| memory(&config, batch, 4, Purpose::Inference);
        // 112 x 112 places before the first stride: four times 64 channels thrice, and input and norm
        // of 64.
        assert_eq!(of(1) - of(0), 4 * 112 * 112 * (3 * 256 + 2 * 64));
        assert_eq!(of(64) - of(0), 64 * (of(1) - of(0)));
    }

    #[test]
    fn the_copied_weights_are_the_tensors_of_the_linear_layers() {
        let linear = [
            "in_proj_weight",
            "out_proj.weight",
            "c_fc.weight",
            "c_proj.weight",
            "qkv.weight",
            "attn.proj.weight",
            "w0.weight",
            "w1.weight",
            "w2.weight",
            "expand.weight",
            "conv1_1x1.weight",
            "conv3_1x1.weight",
        ];
        for name in ["tiny-32", "ViT-S-32", "ViTamin-S", "ViTamin-L-256"] {
            let config = named(name);
            let tensors = config.tensors();
            let copied =
                tensors.iter().filter(|(name, _)| linear.iter().any(|l| name.ends_with(l)));
            let numbers = copied.map(|(_, dims)| dims.iter().map(|d| *d as u64).product::<u64>());
            assert_eq!(linear_weights(&config), numbers.sum::<u64>(), "{name}");
        }
    }

    #[test]
    fn computing_again_needs_less_memory_than_keeping_and_inference_least() {
        for name in ["ViT-B-32", "ViTamin-S", "tiny-32"] {
            let of = |purpose| memory(&named(name), 64, 4, purpose);
            assert!(of(Purpose::Inference) < of(Purpose::Recompute), "{name}");
            assert!(of(Purpose::Recompute) < of(Purpose::Training), "{name}");
        }
    }
}
