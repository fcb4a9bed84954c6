//! Flags of open_clip that a training here does not have, and what does their work.

/// What to do about a flag or field of open_clip's that is not here; hyphens and underscores are the
/// same. `None` for a name that open_clip does not have either.
#[must_use]
pub fn hint(flag: &str) -> Option<&'static str> {
    let name = flag.trim_start_matches('-').replace('-', "_");
    let named = |names: &[&str]| {
        names.iter().any(|known| match known.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => *known == name,
        })
    };
    let found = HINTS.iter().find(|(names, _)| named(names));
    found.map(|(_, hint)| *hint)
}

/// Names, of which a star stands for any end, and what to say of them.
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
        &["image_key", "text_key", "json_text_key"],
        "leave it out: a sample's picture is its member jpg, jpeg, png or webp, its caption the member txt; write the shards so",
    ),
    (
        &["blur_field"],
        "blur when shards are made: `clipmill fetch --bbox_col face_bboxes`, or `reshard` with the boxes",
    ),
    (
        &["val_num_samples", "val_retrieval_chunk_size", "val_retrieval_precision"],
        "leave it out: all of `val_data` is measured in f32, a block of rows at a time",
    ),
    (
        &["imagenet_val", "imagenet_v2"],
        "give the plan of an eval stage: `evaluation: {wds: [wds_imagenet1k_test]}`, a folder as CLIP_benchmark writes them",
    ),
    (
        &["logs", "name", "log_local", "copy_codebase"],
        "use `--output DIR`: out.log and tensorboard/ lie in DIR/train/_work, results beside it",
    ),
    (&["cache_dir"], "leave it out: nothing is downloaded behind your back; give files by path"),
    (
        &["opt", "opt_kwargs", "opt_fallback_list", "momentum"],
        "leave it out: the optimiser is AdamW",
    ),
    (&["wd_exclude"], "use `wd_rule: legacy` or `current`, open_clip's two rules"),
    (&["skip_scheduler"], "use `lr_scheduler: const` with `warmup: 0`"),
    (
        &["torchcompile*", "torchscript", "trace", "use_bnb_linear"],
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
    (&["fsdp*"], "leave it out: every rank holds the whole model"),
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
        &["pretrained_image", "pretrained_image_path", "pretrained_text", "pretrained_audio"],
        "use `pretrained` with a whole checkpoint, and `lock_image` or `lock_text` to keep a tower",
    ),
    (&["aug_cfg"], "use `aug_scale: [low, high]`, the scale of open_clip's one augmentation"),
    (
        &["force_custom_text"],
        "leave it out: it renames tensors; a model JSON with `custom_text: true` has those names",
    ),
    (
        &["lock_image_freeze_bn_stats", "lock_text_freeze_layer_norm"],
        "leave it out: statistics and norms of a locked tower stay as they are",
    ),
    (&["debug"], "use `-v` or CLIPMILL_LOG=debug"),
    (
        &["log_metric_every_n_steps", "train_loss_ema_samples"],
        "leave it out: metrics.jsonl has every step; `log_every_n_steps` is of out.log and TensorBoard",
    ),
    (
        &[
            "layer_decay",
            "text_layer_decay",
            "image_layer_decay",
            "visual_layer_decay",
            "text_pooler_own_group",
            "length_bucketing",
            "bucket_*",
            "text_pad_multiple",
            "naflex*",
            "use_naflex",
            "force_naflex_vision",
            "audio_*",
        ],
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
        assert!(hint("--naflex-seq-lens").unwrap().contains("open_clip 4"));
        assert!(hint("--json-text-key").unwrap().contains("member txt"));
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
