//! Twelve passes of open_clip's own loop on a small model made by formula: the golden training's
//! little sister, which needs nothing beside the repository.
//!
//! The literals are open_clip_torch 3.3.0's with torch 2.15 in f32 on one thread, printed by
//! `bench/interop/train_steps.py` from the start that `examples/small_start.rs` writes.

#![allow(
    clippy::unreadable_literal,
    clippy::excessive_precision,
    reason = "as open_clip printed them"
)]

#[path = "common/small.rs"]
mod small;

use small::{STEPS, batch, clip};
use train::adamw::Constants;
use train::decay::Rule;
use train::schedule::{Cooldown, Schedule, Shape};
use train::trainer::{Batch, Choices, Step, Trainer};

/// A parameter's name and its numbers at places 0, 7 and 14 (modulo its length).
type Probe = (&'static str, &'static [f32]);

struct Run {
    accum: usize,
    clip: Option<f64>,
    losses: &'static [f32],
    end: &'static [Probe],
}

const PLAIN: Run = Run {
    accum: 1,
    clip: None,
    losses: &[
        4.1391506, 3.5327332, 3.2495089, 2.3001680, 2.2806294, 2.8159935, 2.4554057, 2.1803331,
        2.2190485, 2.1161096, 1.9021879, 1.8162251,
    ],
    end: &[
        ("logit_scale", &[2.65315127]),
        ("visual.conv1.weight", &[0.01793375, -0.05075262, 0.05942702]),
        ("visual.positional_embedding", &[0.01246256, -0.36483455, -0.09091866]),
        ("visual.proj", &[-0.06866262, 0.04521390, -0.03296293]),
        ("visual.transformer.resblocks.1.mlp.c_fc.weight", &[0.14314581, -0.14923078, 0.16382433]),
        ("token_embedding.weight", &[0.00687650, -0.04086107, -0.01236963]),
        ("transformer.resblocks.0.attn.in_proj_weight", &[0.20168151, 0.17892399, -0.17734174]),
        ("ln_final.weight", &[1.00565791, 1.00387359, 1.00443637]),
        ("text_projection", &[-0.02883152, -0.02783873, 0.09472734]),
    ],
};

const ACCUMULATED_AND_CLIPPED: Run = Run {
    accum: 2,
    clip: Some(1.0),
    losses: &[4.9138269, 4.9940386, 3.4221520, 2.8259182, 2.8346007, 2.6413758],
    end: &[
        ("logit_scale", &[2.65532804]),
        ("visual.conv1.weight", &[0.01451912, -0.05417536, 0.05606875]),
        ("visual.positional_embedding", &[0.01150598, -0.36353555, -0.08957346]),
        ("visual.proj", &[-0.07048169, 0.04501363, -0.03381890]),
        ("visual.transformer.resblocks.1.mlp.c_fc.weight", &[0.14088969, -0.15017334, 0.15979882]),
        ("token_embedding.weight", &[0.00688063, -0.04088559, -0.01237706]),
        ("transformer.resblocks.0.attn.in_proj_weight", &[0.20251021, 0.18003145, -0.17779158]),
        ("ln_final.weight", &[1.00388026, 1.00355589, 1.00370669]),
        ("text_projection", &[-0.02859774, -0.02873003, 0.09634743]),
    ],
};

#[derive(Clone, Copy)]
struct Variant {
    constants: Constants,
    warmup: u64,
    rule: fn(&str, usize) -> bool,
}

const RIGHT: Variant = Variant {
    constants: Constants { beta1: 0.9, beta2: 0.98, eps: 1e-6, wd: 0.2 },
    warmup: 3,
    rule: |name, dims| Rule::Legacy.decays(name, dims),
};

fn train(run: &Run, variant: Variant) -> (Vec<Step>, Trainer) {
    let steps = STEPS / run.accum;
    let schedule = Schedule {
        shape: Shape::Cosine,
        lr: 1e-3,
        warmup: variant.warmup,
        steps: steps as u64,
        cooldown: Cooldown::default(),
    };
    let choices =
        Choices { grad_clip_norm: run.clip, ..Choices::plain(variant.constants, schedule) };
    let mut trainer = Trainer::new(clip(), choices, variant.rule).unwrap();
    let step = |step: usize| {
        let micro: Vec<Batch> = (0..run.accum).map(|pass| batch(step * run.accum + pass)).collect();
        trainer.step(step as u64, &micro).unwrap()
    };
    (((0..steps).map(step)).collect(), trainer)
}

/// Largest difference of a loss, and of a number at the end.
fn differences(run: &Run, variant: Variant) -> (f32, f32) {
    let (steps, trainer) = train(run, variant);
    assert_eq!(steps.len(), run.losses.len());
    let loss = steps.iter().zip(run.losses).map(|(step, loss)| (step.loss - loss).abs());
    let vars = trainer.clip.params().vars();
    let end = run.end.iter().flat_map(|(name, expected)| {
        let values: Vec<f32> = vars[*name].flatten_all().unwrap().to_vec1().unwrap();
        expected
            .iter()
            .enumerate()
            .map(move |(k, expected)| (values[7 * k % values.len()] - expected).abs())
            .collect::<Vec<f32>>()
    });
    (loss.fold(0.0, f32::max), end.fold(0.0, f32::max))
}

#[test]
fn losses_and_weights_are_open_clips() {
    for run in [&PLAIN, &ACCUMULATED_AND_CLIPPED] {
        let (loss, end) = differences(run, RIGHT);
        assert!(loss < 1e-5, "loss differs by {loss}");
        assert!(end < 3e-5, "weights differ by {end}");
    }
}

#[test]
fn each_mistake_fails() {
    let constants = RIGHT.constants;
    let with = |constants| Variant { constants, ..RIGHT };
    let mistakes = [
        ("wd 0", with(Constants { wd: 0.0, ..constants })),
        ("beta1 0.95", with(Constants { beta1: 0.95, ..constants })),
        ("beta2 0.999", with(Constants { beta2: 0.999, ..constants })),
        ("eps 1e-4", with(Constants { eps: 1e-4, ..constants })),
        ("warmup 2", Variant { warmup: 2, ..RIGHT }),
        ("everything decays", Variant { rule: |_, _| true, ..RIGHT }),
        (
            "position tables do not decay",
            Variant { rule: |name, dims| Rule::Current.decays(name, dims), ..RIGHT },
        ),
    ];
    for (name, variant) in mistakes {
        let (loss, end) = differences(&PLAIN, variant);
        assert!(loss > 1e-5 || end > 3e-5, "{name} passes: loss {loss}, weights {end}");
    }
    let unclipped = Run { clip: None, ..ACCUMULATED_AND_CLIPPED };
    let (loss, _) = differences(&unclipped, RIGHT);
    assert!(loss > 1e-5, "without the clip the loss differs by {loss} only");
    let apart = Run { accum: 1, losses: &PLAIN.losses[..STEPS], ..ACCUMULATED_AND_CLIPPED };
    assert!(differences(&apart, RIGHT).0 > 1e-5, "one loss over both passes is another");
}
