//! Flags of open_clip that a training here does not have, and what does their work.

/// What to do about a flag or field of open_clip's that is not here; hyphens and underscores are the
/// same. `None` for a name that open_clip does not have either.
#[must_use]
pub fn hint(flag: &str) -> Option<&'static str> {
    let name = flag.trim_start_matches('-').replace('-', "_");
    let found = HINTS.iter().find(|(names, _)| names.contains(&name.as_str()));
    found.map(|(_, hint)| *hint)
}

const HINTS: &[(&[&str], &str)] = &[
    (
        &["dataset_type"],
        "leave it out: data are always WebDataset shards; `clipmill fetch` and `reshard` make them from csv",
    ),
    (
        &["csv_separator", "csv_img_key", "csv_caption_key"],
        "turn the csv into shards first: `clipmill fetch --url_list pairs.csv --url_col ... --caption_col ...`",
    ),
    (
        &["train_data_upsampling_factors"],
        "repeat uids in the subset file that `reshard` takes: repeated pairs are meant to be repeated",
    ),
    (&["val_num_samples"], "leave it out: all of `val_data` is measured"),
    (
        &["imagenet_val", "imagenet_v2"],
        "give the plan of an eval stage: `evaluation: {classification: [{data: [...], classes: names.txt}]}`",
    ),
    (
        &["logs", "name", "log_local", "copy_codebase"],
        "use `--output DIR`: out.log and tensorboard/ lie in DIR/train/_work, results beside it",
    ),
    (&["cache_dir"], "leave it out: nothing is downloaded behind your back; give files by path"),
    (&["opt", "opt_kwargs", "momentum"], "leave it out: the optimiser is AdamW"),
    (&["skip_scheduler"], "use `lr_scheduler: const` with `warmup: 0`"),
    (
        &["torchcompile", "torchscript", "trace", "use_bnb_linear"],
        "leave it out: there is no Python to compile",
    ),
    (
        &[
            "device",
            "no_set_device_rank",
            "dist_backend",
            "dist_url",
            "horovod",
            "ddp_static_graph",
        ],
        "leave it out: ranks come from torchrun's or Slurm's variables, see docs/gpu-and-cluster.md",
    ),
    (&["fsdp", "fsdp2"], "leave it out: every rank holds the whole model"),
    (
        &["use_bn_sync"],
        "leave it out: CLIP has no BatchNorm; with `idle_channels` running statistics are averaged over ranks",
    ),
    (
        &["report_to", "wandb_notes", "wandb_project_name"],
        "leave it out: TensorBoard events and metrics.jsonl are always written; `wandb sync` reads the events",
    ),
    (
        &["remote_sync", "remote_sync_frequency", "remote_sync_protocol"],
        "use `--output s3://...`: the output may be an object store",
    ),
    (
        &["siglip", "loss_dist_impl", "coca_caption_loss_weight", "coca_contrastive_loss_weight"],
        "leave it out: the loss is CLIP's",
    ),
    (&["distill_model", "distill_pretrained"], "leave it out: distillation is not implemented"),
    (
        &[
            "pretrained_image",
            "image_mean",
            "image_std",
            "image_interpolation",
            "image_resize_mode",
        ],
        "use `pretrained` with a whole checkpoint; its preprocessing is OpenAI's",
    ),
    (&["aug_cfg"], "use `aug_scale: [low, high]`, the scale of open_clip's one augmentation"),
    (
        &["force_quick_gelu", "force_custom_text", "force_context_length"],
        "name the model that has it (`ViT-B-32-quickgelu`), or give a model JSON with the field; `context_length` is a field",
    ),
    (
        &["lock_image_freeze_bn_stats", "lock_text_freeze_layer_norm"],
        "leave it out: statistics and norms of a locked tower stay as they are",
    ),
    (&["debug"], "use `-v` or CLIPMILL_LOG=debug"),
    (
        &["layer_decay", "length_bucketing", "naflex", "use_naflex"],
        "leave it out: it came with open_clip 4 and is not here",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_that_is_not_here_is_answered_however_it_is_spelt() {
        let told = hint("--dataset-type").unwrap();
        assert!(told.contains("WebDataset"), "{told}");
        assert_eq!(hint("dataset_type"), Some(told));
        assert_eq!(hint("--no-such-flag"), None);
    }

    #[test]
    fn no_hint_stands_for_a_field_that_is_here() {
        let plan = serde_json::to_value(crate::TrainPlan::default()).unwrap();
        let fields = plan.as_object().unwrap();
        for name in HINTS.iter().flat_map(|(names, _)| *names) {
            assert!(!fields.contains_key(*name), "{name} is a field");
        }
    }
}
