//! open_clip's flags that are no fields of a training: what `clipmill train` does with them.
//!
//! The flags of open_clip 3.3 (`open_clip_train/params.py`) are of three kinds: fields of a training
//! under the same name, those of this file, and those that are refused with what does their work
//! (`train::plan::open_clip`). Of this file's, some change nothing here and are taken so that a
//! command of somebody else's starts; others are translated.

use std::path::Path;

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::{Map, Value, json};
use stage::{Error, Result};

/// A flag that asks for what is done anyway.
struct Flag {
    name: &'static str,
    /// Values that do; `*` stands for all.
    taken: &'static [&'static str],
    /// Why nothing changes, or what to do about another value.
    answer: &'static str,
}

const FLAGS: &[Flag] = &[
    Flag {
        name: "dataset_type",
        taken: &["webdataset", "auto"],
        answer: "data are always WebDataset shards: `clipmill fetch --url_list pairs.csv --caption_col ...` makes them of a csv",
    },
    Flag {
        name: "report_to",
        taken: &["", "none", "tensorboard"],
        answer: "TensorBoard events and metrics.jsonl are always written, and nothing is sent anywhere; `wandb sync --tensorboard` reads the events",
    },
    Flag { name: "opt", taken: &["adamw"], answer: "the optimiser is AdamW" },
    Flag { name: "ddp_static_graph", taken: &["*"], answer: "there is no graph of modules" },
    Flag {
        name: "use_bn_sync",
        taken: &["*"],
        answer: "CLIP has no BatchNorm; with `idle_channels` statistics stay each rank's own",
    },
    Flag { name: "no_set_device_rank", taken: &["*"], answer: "--device says which device" },
    Flag { name: "dist_backend", taken: &["*"], answer: "ranks talk over TCP, GPUs over NCCL" },
    Flag {
        name: "dist_url",
        taken: &["*"],
        answer: "ranks come from torchrun's or Slurm's variables",
    },
    Flag { name: "log_local", taken: &["*"], answer: "rank 0 writes the log" },
    Flag { name: "torchcompile", taken: &["*"], answer: "there is no Python to compile" },
    Flag { name: "cache_dir", taken: &["*"], answer: "nothing is downloaded" },
    Flag { name: "wandb_notes", taken: &["*"], answer: "nothing is sent anywhere" },
    Flag { name: "wandb_project_name", taken: &["*"], answer: "nothing is sent anywhere" },
    Flag {
        name: "lock_image_freeze_bn_stats",
        taken: &["*"],
        answer: "statistics of a locked tower stay as they are",
    },
    Flag {
        name: "lock_text_freeze_layer_norm",
        taken: &["*"],
        answer: "norms of a locked tower stay as they are",
    },
];

/// Flags that are translated.
const TRANSLATED: [&str; 6] =
    ["logs", "name", "skip_scheduler", "imagenet_val", "imagenet_v2", "aug_cfg"];

/// Adds them, hidden: the help speaks of them at its end.
pub(crate) fn add(mut command: Command) -> Command {
    for name in FLAGS.iter().map(|flag| flag.name).chain(TRANSLATED) {
        let most = if name == "aug_cfg" { 64 } else { 1 };
        let mut arg = Arg::new(name)
            .long(name)
            .hide(true)
            .num_args(0..=most)
            .default_missing_value("True")
            .action(ArgAction::Append);
        if name.contains('_') {
            arg = arg.alias(name.replace('_', "-"));
        }
        command = command.arg(arg);
    }
    command
}

/// The end of the help.
pub(crate) fn help() -> &'static str {
    "\nFrom open_clip: its flags have their names and meanings here. --logs and --name make the output \
     LOGS/NAME; --imagenet-val takes a folder as CLIP_benchmark\nwrites test sets; flags that change \
     nothing here (--ddp-static-graph, --dataset-type webdataset, ...) are taken and named once; others \
     are answered with what\ndoes their work. See docs/training.md.\n"
}

fn values<'a>(args: &'a ArgMatches, name: &str) -> impl Iterator<Item = &'a str> {
    let all = args.try_get_many::<String>(name).ok().flatten();
    all.into_iter().flatten().map(String::as_str)
}

/// The one value of a flag; Python's `None` is none.
fn value<'a>(args: &'a ArgMatches, name: &str) -> Option<&'a str> {
    values(args, name).last().filter(|value| *value != "None")
}

/// Checks these flags and writes what they mean into the plan.
///
/// # Errors
/// Names the flag, what was asked for, and what does its work.
pub(crate) fn apply(args: &ArgMatches, plan: &mut Map<String, Value>) -> Result<()> {
    let mut idle = Vec::new();
    for flag in FLAGS {
        for value in values(args, flag.name) {
            let same = |taken: &&str| *taken == "*" || taken.eq_ignore_ascii_case(value);
            if !flag.taken.iter().any(same) {
                let words: Vec<String> = flag.taken.iter().map(|t| format!("`{t}`")).collect();
                return Err(Error::recipe(format!(
                    "open_clip's --{} is taken with {} alone, got `{value}`",
                    flag.name.replace('_', "-"),
                    words.join(", ")
                ))
                .hint(flag.answer));
            }
        }
        if values(args, flag.name).any(|value| value != "False") {
            idle.push(format!("--{} ({})", flag.name.replace('_', "-"), flag.answer));
        }
    }
    // Of several ranks, one says it.
    let rank = ["RANK", "SLURM_PROCID"].into_iter().find_map(|name| std::env::var(name).ok());
    if !idle.is_empty() && rank.is_none_or(|rank| rank.trim() == "0") {
        eprintln!("note: these change nothing here: {}", idle.join("; "));
    }
    if value(args, "skip_scheduler").is_some_and(|value| !value.eq_ignore_ascii_case("false")) {
        plan.insert("lr_scheduler".to_owned(), json!("const"));
        plan.insert("warmup".to_owned(), json!(0));
    }
    augmentation(args, plan)?;
    zero_shot(args, plan)
}

/// `--aug-cfg scale=(0.9,1.0)`.
fn augmentation(args: &ArgMatches, plan: &mut Map<String, Value>) -> Result<()> {
    for word in values(args, "aug_cfg").filter(|word| !matches!(*word, "" | "True")) {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        let numbers: Vec<f64> = value
            .trim_matches(|c| "()[] ".contains(c))
            .split(',')
            .filter_map(|number| number.trim().parse().ok())
            .collect();
        match (key, numbers.as_slice()) {
            ("scale", [low, high]) => {
                plan.insert("aug_scale".to_owned(), json!([low, high]));
            }
            ("use_timm", _) if value == "False" => {}
            _ => {
                return Err(Error::recipe(format!("open_clip's --aug-cfg {word} is not here"))
                    .hint(
                        "`scale=(0.9,1.0)`, the share of a random crop, is the one augmentation",
                    ));
            }
        }
    }
    Ok(())
}

/// `--imagenet-val DIR`: a folder of shards with class names and templates in it.
fn zero_shot(args: &ArgMatches, plan: &mut Map<String, Value>) -> Result<()> {
    let mut folders = Vec::new();
    for name in ["imagenet_val", "imagenet_v2"] {
        let Some(folder) = value(args, name) else { continue };
        if !folder.contains("://") && !Path::new(folder).join("test/nshards.txt").is_file() {
            return Err(Error::recipe(format!(
                "--{} {folder} has no test/nshards.txt",
                name.replace('_', "-")
            ))
            .hint(
                "give the folder of ImageNet as CLIP_benchmark writes it (wds_imagenet1k_test: shards, \
                 classnames.txt, zeroshot_classification_templates.txt); a tree of pictures is not read",
            ));
        }
        folders.push(json!(folder));
    }
    if folders.is_empty() {
        return Ok(());
    }
    if plan.contains_key("evaluation") {
        return Err(Error::recipe("--imagenet-val and --evaluation are both given")
            .hint("name the folder in the evaluation: `{wds: [DIR], ...}`"));
    }
    plan.insert("evaluation".to_owned(), json!({"wds": folders}));
    Ok(())
}

/// The output that `--logs` and `--name` ask for: `LOGS/NAME`, as open_clip's run folder.
///
/// # Errors
/// Both they and `--output` are given.
pub(crate) fn output(args: &ArgMatches, default: &str) -> Result<Option<String>> {
    let (logs, name) = (value(args, "logs"), value(args, "name"));
    if logs.is_none() && name.is_none() {
        return Ok(None);
    }
    if args.get_one::<String>("output").is_some() {
        return Err(Error::recipe("--output and --logs or --name are both given")
            .hint("--logs L --name N is --output L/N: keep one of them"));
    }
    let logs = logs.unwrap_or("logs").trim_end_matches('/');
    Ok(Some(format!("{}/{}", if logs.is_empty() { "/" } else { logs }, name.unwrap_or(default))))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every flag of open_clip 3.3 and of 4.2, without the audio and NaFlex ones of the latter.
    const THERE: &str = "train-data train-data-upsampling-factors val-data train-num-samples \
        val-num-samples dataset-type dataset-resampled csv-separator csv-img-key csv-caption-key \
        imagenet-val imagenet-v2 cache-dir logs log-local name workers batch-size epochs \
        epochs-cooldown lr beta1 beta2 eps wd momentum warmup opt use-bn-sync skip-scheduler \
        lr-scheduler lr-cooldown-end lr-cooldown-power save-frequency save-most-recent \
        zeroshot-frequency val-frequency resume precision model pretrained pretrained-image lock-image \
        lock-image-unlocked-groups lock-image-freeze-bn-stats image-mean image-std \
        image-interpolation image-resize-mode aug-cfg grad-checkpointing local-loss gather-with-grad \
        force-context-length force-image-size force-quick-gelu force-patch-dropout force-custom-text \
        torchscript torchcompile trace accum-freq device dist-url dist-backend report-to wandb-notes \
        wandb-project-name debug copy-codebase horovod ddp-static-graph no-set-device-rank seed \
        grad-clip-norm lock-text lock-text-unlocked-layers lock-text-freeze-layer-norm \
        log-every-n-steps coca-caption-loss-weight coca-contrastive-loss-weight remote-sync \
        remote-sync-frequency remote-sync-protocol delete-previous-checkpoint distill-model \
        distill-pretrained use-bnb-linear siglip loss-dist-impl \
        image-key text-key json-text-key opt-kwargs opt-fallback-list text-layer-decay \
        image-layer-decay visual-layer-decay wd-exclude text-pooler-own-group \
        val-retrieval-chunk-size val-retrieval-precision torchcompile-strategy torchcompile-backend \
        torchcompile-mode fsdp fsdp-no-reshard-after-forward fsdp-offload-cpu fsdp-checkpoint \
        log-metric-every-n-steps train-loss-ema-samples use-naflex force-naflex-vision \
        naflex-seq-lens naflex-patch-sizes length-bucketing bucket-pool bucket-chunk \
        text-pad-multiple audio-ext pretrained-audio pretrained-image-path blur-field";

    fn parse(words: &[&str]) -> std::result::Result<ArgMatches, clap::Error> {
        let command = ["clipmill", "train"].iter().chain(words);
        super::super::args::command().try_get_matches_from(command)
    }

    fn applied(words: &[&str]) -> Result<Map<String, Value>> {
        let matches = parse(words).unwrap();
        let mut plan = Map::new();
        apply(matches.subcommand_matches("train").unwrap(), &mut plan).map(|()| plan)
    }

    #[test]
    fn every_flag_of_open_clip_is_taken_or_answered() {
        for flag in THERE.split_whitespace() {
            let flag = format!("--{flag}");
            // Some want a number or a word of a list, which is another answer.
            let known = match parse(&[&flag, "1"]) {
                Ok(_) => true,
                Err(error) => error.kind() != clap::error::ErrorKind::UnknownArgument,
            };
            let answered = train::plan::open_clip::hint(&flag).is_some();
            assert!(known || answered, "{flag}");
        }
    }

    #[test]
    fn what_asks_for_something_else_is_refused_with_what_does_its_work() {
        for (words, told, hint) in [
            (
                ["--dataset-type", "csv"],
                "--dataset-type is taken with `webdataset`, `auto` alone",
                "clipmill fetch",
            ),
            (["--report-to", "wandb"], "got `wandb`", "wandb sync"),
            (["--opt", "timm/lion"], "got `timm/lion`", "AdamW"),
            (["--aug-cfg", "color_jitter=0.4"], "--aug-cfg color_jitter=0.4 is not here", "scale="),
            (["--imagenet-val", "/nowhere"], "no test/nshards.txt", "CLIP_benchmark"),
        ] {
            let error = applied(&words).unwrap_err();
            assert!(error.to_string().contains(told), "{error}");
            assert!(error.hint_text().is_some_and(|text| text.contains(hint)), "{error}");
        }
    }

    #[test]
    fn flags_are_translated_into_fields() {
        let plan = applied(&["--aug-cfg", "scale=(0.5, 1.0)", "use_timm=False"]).unwrap();
        assert_eq!(Value::Object(plan), json!({"aug_scale": [0.5, 1.0]}));
        let plan = applied(&["--skip-scheduler", "--report-to", "", "--ddp-static-graph"]).unwrap();
        assert_eq!(Value::Object(plan), json!({"lr_scheduler": "const", "warmup": 0}));
    }

    #[test]
    fn logs_and_name_make_the_output() {
        let of = |words: &[&str]| {
            let matches = parse(words).unwrap();
            output(matches.subcommand_matches("train").unwrap(), "clipmill-train")
        };
        assert_eq!(of(&["--logs", "l/", "--name", "n"]).unwrap().unwrap(), "l/n");
        assert_eq!(of(&["--name", "n"]).unwrap().unwrap(), "logs/n");
        assert_eq!(of(&["--logs", "s3://b/l"]).unwrap().unwrap(), "s3://b/l/clipmill-train");
        assert_eq!(of(&["--logs", "None"]).unwrap(), None);
        assert!(of(&["--name", "n", "--output", "o"]).is_err());
    }
}
