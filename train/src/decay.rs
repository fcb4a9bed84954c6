//! Which parameters shrink by weight decay: open_clip's two rules.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A rule by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// open_clip up to 3.x, which made DataComp's models: no decay for fewer than two dimensions or
    /// a name with `bn`, `ln`, `bias` or `logit_scale` in it; position tables do decay
    /// (`open_clip_train/legacy_main.py`; open_clip 2.16.1 `training/main.py`).
    Legacy,
    /// open_clip 4.x: no decay for at most one dimension, nor for the position tables and the class
    /// embedding (`no_weight_decay()` of both towers).
    Current,
}

impl Rule {
    /// Whether a parameter of this name and this many dimensions decays.
    #[must_use]
    pub fn decays(self, name: &str, dims: usize) -> bool {
        let kept_out: &[&str] = match self {
            Self::Legacy => &["bn", "ln", "bias", "logit_scale"],
            Self::Current => &["positional_embedding", "class_embedding", "pos_embed"],
        };
        dims >= 2 && !kept_out.iter().any(|part| name.contains(part))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_the_legacy_rule_position_tables_decay_and_norms_biases_and_the_scale_do_not() {
        let decays = |name, dims| Rule::Legacy.decays(name, dims);
        assert!(decays("visual.positional_embedding", 2));
        assert!(decays("visual.conv1.weight", 4));
        assert!(decays("transformer.resblocks.0.attn.in_proj_weight", 2));
        assert!(!decays("visual.class_embedding", 1));
        assert!(!decays("transformer.resblocks.0.attn.in_proj_bias", 1));
        assert!(!decays("ln_final.weight", 1));
        assert!(!decays("logit_scale", 0));
        assert!(!decays("a.bn1.weight", 2), "by name, whatever the shape");
    }

    #[test]
    fn in_the_current_rule_position_tables_do_not_decay() {
        let decays = |name, dims| Rule::Current.decays(name, dims);
        assert!(!decays("visual.positional_embedding", 2));
        assert!(!decays("positional_embedding", 2));
        assert!(!decays("visual.class_embedding", 1));
        assert!(!decays("ln_final.weight", 1));
        assert!(decays("a.bn1.weight", 2), "by shape, whatever the name");
        assert!(decays("token_embedding.weight", 2));
    }
}
