//! What `clipmill fetch` answers to img2dataset's flags that it does not have.
//!
//! The flags of img2dataset 1.47 (`main.py`, `download`) are of two kinds: those that `fetch` has
//! under the same name, and those of this table. Of the latter, a value that asks for what is done
//! anyway is taken; any other is refused with what does its work here.

use clap::{Arg, ArgAction, ArgMatches, Command};
use stage::{Error, Result};

/// A flag of img2dataset without a field of a recipe.
struct Flag {
    name: &'static str,
    /// Values that ask for what is done anyway; `*` stands for all.
    taken: &'static [&'static str],
    /// What does its work here, or why nothing does.
    answer: &'static str,
}

const FLAGS: [Flag; 11] = [
    Flag {
        name: "output_format",
        taken: &["webdataset"],
        answer: "clipmill writes webdataset: tar, parquet and stats, as there",
    },
    Flag {
        name: "incremental_mode",
        taken: &["incremental"],
        answer: "the same command goes on where it stopped; `--redo fetch` makes everything again, another --output begins anew",
    },
    Flag {
        name: "max_shard_retry",
        taken: &["1"],
        answer: "a shard is whole or not there, and the same command goes on; --retries N tries a URL again, and a second run with --retry_failed true what failed",
    },
    Flag {
        name: "distributor",
        taken: &["multiprocessing"],
        answer: "any scheduler: start the same command N times with --units I/N, or as a Slurm array or Indexed Job, which say the share themselves",
    },
    Flag { name: "subjob_size", taken: &["*"], answer: "a unit is one shard" },
    Flag {
        name: "enable_wandb",
        taken: &["False"],
        answer: "--metrics PORT or --metrics_file FILE give Prometheus the figures, --json the result, and report.html shows them",
    },
    Flag { name: "wandb_project", taken: &["*"], answer: "" },
    Flag {
        name: "upscale_interpolation",
        taken: &["lanczos"],
        answer: "small pictures are enlarged by Lanczos, img2dataset's default",
    },
    Flag {
        name: "downscale_interpolation",
        taken: &["area"],
        answer: "large pictures are reduced by area, img2dataset's default",
    },
    Flag {
        name: "disable_all_reencoding",
        taken: &["False"],
        answer: "--resize_mode no --skip_reencode true keeps the downloaded bytes of what is a picture; what cannot be decoded is never kept",
    },
    Flag {
        name: "ignore_ssl_certificate",
        taken: &["False"],
        answer: "certificates are checked; a server with a wrong one fails as `tls`",
    },
];

/// Adds them, hidden: the help speaks of them at its end.
pub(crate) fn add(mut command: Command) -> Command {
    for flag in &FLAGS {
        let mut arg = Arg::new(flag.name)
            .long(flag.name)
            .hide(true)
            .num_args(0..=1)
            .default_missing_value("True")
            .action(ArgAction::Append);
        if flag.name.contains('_') {
            arg = arg.alias(flag.name.replace('_', "-"));
        }
        command = command.arg(arg);
    }
    command
}

/// Refuses what asks for something else than is done.
///
/// # Errors
/// Names the flag, what was asked for, and what does its work.
pub(crate) fn check(args: &ArgMatches) -> Result<()> {
    for flag in &FLAGS {
        let values = args.try_get_many::<String>(flag.name).ok().flatten().into_iter().flatten();
        for value in values {
            let same = |taken: &&str| *taken == "*" || taken.eq_ignore_ascii_case(value);
            if !flag.taken.iter().any(same) {
                let only = flag.taken.join(", ");
                return Err(Error::recipe(format!(
                    "img2dataset's --{} is not here, other than `{only}`: got `{value}`",
                    flag.name
                ))
                .hint(flag.answer));
            }
        }
    }
    Ok(())
}

/// The end of the help.
pub(crate) fn help() -> String {
    let mut text = String::from(
        "\nFrom img2dataset: its flags have their names and meanings here, and but for those named below their \
         defaults; values may be\nwritten as there (True, None, inf, '[\"a\",\"b\"]'), and a switch may stand without \
         a value. What is not here, and what does its work:\n",
    );
    for flag in FLAGS.iter().filter(|flag| !flag.answer.is_empty()) {
        text.push_str(&format!("  --{:<25} {}\n", flag.name, flag.answer));
    }
    text.push_str(
        "Other than there: --input_format is seen from the file's ending, --output_format is webdataset, --output_folder is\n\
         clipmill-fetch, --extract_exif is off, --processes_count is a number of threads (default: every core), robots.txt is\n\
         obeyed (--robots false), private addresses are refused, EXIF orientation is applied, lossy webp is not written.\n",
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every flag of img2dataset 1.47 with its default, as its `main.py` has them.
    const THERE: [(&str, &str); 38] = [
        ("url_list", "list.txt"),
        ("image_size", "256"),
        ("output_folder", "images"),
        ("processes_count", "1"),
        ("resize_mode", "border"),
        ("resize_only_if_bigger", "False"),
        ("upscale_interpolation", "lanczos"),
        ("downscale_interpolation", "area"),
        ("encode_quality", "95"),
        ("encode_format", "jpg"),
        ("skip_reencode", "False"),
        ("output_format", "files"),
        ("input_format", "txt"),
        ("url_col", "url"),
        ("caption_col", "None"),
        ("bbox_col", "None"),
        ("thread_count", "256"),
        ("number_sample_per_shard", "10000"),
        ("extract_exif", "True"),
        ("save_additional_columns", "None"),
        ("timeout", "10"),
        ("enable_wandb", "False"),
        ("wandb_project", "img2dataset"),
        ("oom_shard_count", "5"),
        ("compute_hash", "sha256"),
        ("verify_hash", "None"),
        ("distributor", "multiprocessing"),
        ("subjob_size", "1000"),
        ("retries", "0"),
        ("disable_all_reencoding", "False"),
        ("min_image_size", "0"),
        ("max_image_area", "inf"),
        ("max_aspect_ratio", "inf"),
        ("incremental_mode", "incremental"),
        ("max_shard_retry", "1"),
        ("user_agent_token", "None"),
        ("disallowed_header_directives", "None"),
        ("ignore_ssl_certificate", "False"),
    ];

    /// The recipe's `fetch` and its list, or the error.
    fn plan(words: &[&str]) -> Result<serde_json::Value> {
        let command = ["clipmill", "fetch"].iter().chain(words);
        let matches = super::super::args::command().try_get_matches_from(command);
        let matches = matches.map_err(|error| Error::recipe(error.to_string()))?;
        let (_, args) = matches.subcommand().unwrap();
        super::super::single::recipe("fetch", args).map(|recipe| recipe["stages"].clone())
    }

    #[test]
    fn every_flag_of_img2dataset_is_taken_at_its_default_or_answered() {
        for (name, default) in THERE {
            for flag in [name.to_owned(), name.replace('_', "-")] {
                let given = format!("--{flag}={default}");
                let mut words = vec![given.as_str()];
                if name != "url_list" {
                    words.push("--url_list=list.txt");
                }
                match plan(&words) {
                    Ok(_) => {}
                    Err(error) => {
                        assert_eq!(name, "output_format", "{given}: {error}");
                        assert!(error.hint_text().unwrap().contains("webdataset"));
                    }
                }
            }
        }
    }

    #[test]
    fn their_whole_default_command_is_a_plan_that_is_valid() {
        let words: Vec<String> = THERE
            .iter()
            .map(|(name, default)| match *name {
                "output_format" => "--output_format=webdataset".to_owned(),
                _ => format!("--{name}={default}"),
            })
            .collect();
        let stages = plan(&words.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
        let fetch: ingest::fetch::FetchPlan =
            serde_json::from_value(stages[1]["fetch"].clone()).unwrap();
        fetch.validate().unwrap();
        let ours = ingest::fetch::FetchPlan { extract_exif: true, ..Default::default() };
        assert_eq!(fetch, ours, "but for EXIF our defaults are theirs");
        assert_eq!(stages[0]["link_list"]["url_list"], serde_json::json!(["list.txt"]));
        assert_eq!(stages[0]["link_list"]["input_format"], "txt");
    }

    #[test]
    fn values_as_python_writes_them_are_understood() {
        let fetch = |words: &[&str]| {
            let words = [&["--url_list", "a.txt"][..], words].concat();
            plan(&words).unwrap()[1]["fetch"].clone()
        };
        assert_eq!(fetch(&["--skip_reencode", "True"])["skip_reencode"], true);
        assert_eq!(fetch(&["--skip_reencode"])["skip_reencode"], true);
        assert_eq!(fetch(&["--skip_reencode", "--image_size", "3"])["image_size"], 3);
        assert_eq!(fetch(&["--compute_hash", "None"])["compute_hash"], serde_json::Value::Null);
        let hash = fetch(&["--verify_hash", "[\"md5\",\"md5\"]"]);
        assert_eq!(hash["verify_hash"], serde_json::json!(["md5", "md5"]));
        let columns = fetch(&["--save_additional_columns", "[\"uid\",\"face_bboxes\"]"]);
        assert_eq!(columns["save_additional_columns"], serde_json::json!(["uid", "face_bboxes"]));
    }

    #[test]
    fn what_asks_for_something_else_is_told_what_does_its_work() {
        let told = |words: &[&str]| {
            let words = [&["--url_list", "a.txt"][..], words].concat();
            let error = plan(&words).unwrap_err();
            format!("{error}; {}", error.hint_text().unwrap())
        };
        assert_eq!(
            told(&["--output_format", "parquet"]),
            "img2dataset's --output_format is not here, other than `webdataset`: got `parquet`; \
             clipmill writes webdataset: tar, parquet and stats, as there"
        );
        assert!(told(&["--distributor", "pyspark"]).contains("--units I/N"));
        assert!(told(&["--enable_wandb"]).contains("--metrics PORT"));
        assert!(told(&["--max-shard-retry", "3"]).contains("--retry_failed true"));
        assert!(told(&["--incremental_mode", "overwrite"]).contains("--redo fetch"));
        assert!(told(&["--disable_all_reencoding", "True"]).contains("--skip_reencode true"));
    }

    #[test]
    fn the_help_names_every_flag_that_is_not_here() {
        let help = help();
        for flag in FLAGS.iter().filter(|flag| !flag.answer.is_empty()) {
            assert!(help.contains(&format!("--{} ", flag.name)), "{}", flag.name);
        }
    }
}
