//! Parameters and multiply-adds of an image tower from its shape alone, plain, in training form
//! and folded.
//!
//! Multiply-adds (MACs) follow the papers' counters: matrix products and convolutions only; norms,
//! activations and additions cost nothing. RePaViT's Tables 1, 3, 4 and 8 leave out QKᵀ and A·V,
//! since their counter does not see fused attention; its CLIP table counts them. Both are given.

use models::VitConfig;

/// The shape of a CLIP vision transformer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tower {
    /// Side of the picture in pixels.
    pub image_size: u64,
    /// Side of a patch in pixels.
    pub patch_size: u64,
    /// Width C.
    pub width: u64,
    /// Blocks.
    pub layers: u64,
    /// Hidden channels H of an FFN.
    pub hidden: u64,
    /// Width of the projection.
    pub embed_dim: u64,
}

/// The form of the FFNs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Form {
    /// LayerNorm and two maps, as in open_clip.
    Plain,
    /// RePaViT in training: BatchNorm before and between the two maps.
    IdleChannels,
    /// RePaViT at inference, with so many active channels.
    Folded {
        /// Channels with activation, of H.
        active: u64,
    },
}

/// Multiply-adds of one picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Macs {
    /// Without QKᵀ and A·V.
    pub without_attention: u64,
    /// With them.
    pub with_attention: u64,
}

impl Tower {
    /// Of a plain ViT that projects to `embed_dim`.
    #[must_use]
    pub fn new(vit: &VitConfig, embed_dim: usize) -> Self {
        Self {
            image_size: vit.image_size as u64,
            patch_size: vit.patch_size as u64,
            width: vit.width as u64,
            layers: vit.layers as u64,
            hidden: vit.hidden() as u64,
            embed_dim: embed_dim as u64,
        }
    }

    /// Trainable parameters.
    #[must_use]
    pub fn parameters(&self, form: Form) -> u64 {
        let Self { width: c, layers, embed_dim, .. } = *self;
        let attention = 2 * c + 3 * c * c + 3 * c + c * c + c; // ln_1, in_proj, out_proj
        let stem = c * 3 * self.patch_size * self.patch_size + c + self.tokens() * c + 2 * c;
        let head = 2 * c + c * embed_dim;
        stem + layers * (attention + self.ffn_parameters(form)) + head
    }

    /// Multiply-adds of one picture.
    #[must_use]
    pub fn macs(&self, form: Form) -> Macs {
        let Self { width: c, layers, embed_dim, .. } = *self;
        let tokens = self.tokens();
        let stem = (tokens - 1) * c * 3 * self.patch_size * self.patch_size;
        let block = tokens * (4 * c * c + self.ffn_macs(form));
        let products = 2 * tokens * tokens * c;
        let without_attention = stem + layers * block + c * embed_dim;
        Macs { without_attention, with_attention: without_attention + layers * products }
    }

    /// Patches and the class token.
    fn tokens(&self) -> u64 {
        let side = self.image_size / self.patch_size;
        side * side + 1
    }

    fn ffn_parameters(&self, form: Form) -> u64 {
        let Self { width: c, hidden: h, .. } = *self;
        let maps = 2 * c * h + h + c;
        match form {
            Form::Plain => 2 * c + maps,
            Form::IdleChannels => 2 * c + 2 * h + maps,
            // U, u, V, R, r
            Form::Folded { active: a } => 2 * a * c + a + c * c + c,
        }
    }

    /// Multiply-adds of one token.
    fn ffn_macs(&self, form: Form) -> u64 {
        let Self { width: c, hidden: h, .. } = *self;
        match form {
            Form::Plain | Form::IdleChannels => 2 * c * h,
            Form::Folded { active: a } => 2 * a * c + c * c,
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use models::{Clip, ClipConfig};
    use stage::Change;

    use super::*;

    fn clip_b(patch_size: u64) -> Tower {
        Tower { image_size: 224, patch_size, width: 768, layers: 12, hidden: 3072, embed_dim: 512 }
    }

    fn folded(tower: Tower, idle_ratio: f64) -> Form {
        let active = models::repavit::active_channels(tower.hidden as usize, idle_ratio);
        Form::Folded { active: active.unwrap() as u64 }
    }

    #[test]
    fn counts_from_the_shape_equal_the_tensors_of_the_model() {
        let config = ClipConfig::named("tiny-32").unwrap();
        let tower = Tower::new(config.vision.vit().unwrap(), config.embed_dim);
        for (changes, form) in [
            (vec![], Form::Plain),
            (vec![Change::IdleChannels { ratio: 0.75 }], Form::IdleChannels),
            (vec![Change::Folded { ratio: 0.75 }], folded(tower, 0.75)),
        ] {
            let clip = Clip::init(&config, &changes, 0, &Device::Cpu).unwrap();
            let vars = clip.params().vars().iter();
            let image = vars.filter(|(name, _)| name.starts_with("visual."));
            let count: usize = image.map(|(_, var)| var.elem_count()).sum();
            assert_eq!(tower.parameters(form), count as u64, "{form:?}");
        }
    }

    /// Millions of parameters and billions of MACs, as RePaViT's CLIP table prints them.
    fn check(tower: Tower, form: Form, parameters: f64, macs: f64) {
        let (p, m) =
            (tower.parameters(form) as f64 / 1e6, tower.macs(form).with_attention as f64 / 1e9);
        assert!((p - parameters).abs() < 5e-4, "{p} M parameters, expected {parameters}");
        assert!((m - macs).abs() < 5e-4, "{m} GMAC, expected {macs}");
    }

    #[test]
    fn repa_clip_b32_as_published() {
        let tower = clip_b(32);
        check(tower, Form::Plain, 87.849, 4.409);
        check(tower, folded(tower, 0.5), 66.579, 3.347);
        check(tower, folded(tower, 0.75), 52.414, 2.639);
    }

    #[test]
    fn repa_clip_b16_as_published() {
        let tower = clip_b(16);
        check(tower, Form::Plain, 86.193, 17.563);
        check(tower, folded(tower, 0.5), 64.922, 13.380);
        check(tower, folded(tower, 0.75), 50.757, 10.592);
    }

    #[test]
    fn folding_leaves_the_published_share_of_the_ffn() {
        // 1 − θ + 1/(2ρ) of 2ρC² with ρ = 4
        let tower = clip_b(16);
        for (idle, share) in [(0.25, 0.875), (0.5, 0.625), (0.75, 0.375), (1.0, 0.125)] {
            let ratio =
                tower.ffn_macs(folded(tower, idle)) as f64 / tower.ffn_macs(Form::Plain) as f64;
            assert!((ratio - share).abs() < 1e-12, "{ratio}");
        }
    }

    #[test]
    fn the_training_form_adds_a_gain_and_a_shift_for_every_hidden_channel() {
        let tower = clip_b(32);
        let more = tower.parameters(Form::IdleChannels) - tower.parameters(Form::Plain);
        assert_eq!(more, 12 * 2 * 3072);
    }
}
