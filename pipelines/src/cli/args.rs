//! The command line's grammar.

use clap::{Arg, ArgAction, Command, value_parser};

use super::{flags, single};
use crate::recipe::{KINDS, json_schema};

const AFTER: &str = "\
Exit codes:
  0    done
  1    a bug in clipmill
  2    the command line or the recipe is wrong
  3    an input is missing, empty or broken as a whole
  4    the output store refused or failed (disk full, no permission)
  5    another run holds the output, or another recipe made it
  6    the network failed as a whole
  7    a model or its numbers are wrong
  8    a training does not fit into the memory
  130  stopped by a signal; the same command goes on
Codes 2, 3, 5, 7 and 8 stay the same when the command is repeated; 1, 4, 6 and 130 may not.

Examples:
  clipmill demo                                  the whole job on a small real web, in minutes
  clipmill check recipe.yaml                     find mistakes before anything runs
  clipmill run recipe.yaml                       run, or go on after a stop
  clipmill links --wat crawl.warc.wat.gz --output out
  clipmill fetch --url_list urls.csv --caption_col caption --output out";

const STREAM: &str = "\
Write shards as one tar to stdout, shuffled so that it can be repeated and gone on with.

The order is a function of shards, seed, window and pass. Every sample has a further member
`cursor`: given back with `--cursor`, the rest of the pass follows. In Python (which would expand
a brace range itself, into a pass over each tar):

  webdataset.WebDataset(\"pipe:clipmill stream pool/ --seed 1 --share 0/4\")";

/// Builds the grammar; stages' flags come from the recipe's schema.
pub(crate) fn command() -> Command {
    let schema = json_schema();
    let mut command = Command::new("clipmill")
        .version(env!("CARGO_PKG_VERSION"))
        .about("From raw crawl to measured CLIP dataset and model: one binary, one recipe")
        .after_help(AFTER)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .arg(
            Arg::new("json")
                .long("json")
                .global(true)
                .action(ArgAction::SetTrue)
                .help("Print the result as one JSON document on stdout"),
        )
        .arg(
            Arg::new("verbose")
                .long("verbose")
                .short('v')
                .global(true)
                .action(ArgAction::Count)
                .help("Say more on stderr; twice for everything"),
        )
        .subcommand(
            Command::new("demo")
                .about("Run the whole mill on a small real web that this binary serves on loopback")
                .arg(output().default_value("clipmill-demo"))
                .arg(seed())
                .arg(
                    Arg::new("prepare")
                        .long("prepare")
                        .action(ArgAction::SetTrue)
                        .help("Only write the world and the recipe, run nothing"),
                ),
        )
        .subcommand(running(
            Command::new("run").about("Run a recipe, or go on where it stopped").arg(recipe()),
        ))
        .subcommand(Command::new("check").about("Check a recipe without side effects").arg(recipe()))
        .subcommand(
            Command::new("plan")
                .about("Show the stages of a recipe, what is done already, and why the rest is not")
                .arg(recipe())
                .arg(output()),
        )
        .subcommand(Command::new("stages").about("List the stages that a recipe can name"))
        .subcommand(
            Command::new("schema").about("Print the JSON schema of recipes").arg(
                Arg::new("markdown")
                    .long("markdown")
                    .action(ArgAction::SetTrue)
                    .help("Print the reference page (docs/recipes.md) instead"),
            ),
        )
        .subcommand(
            Command::new("why")
                .about("Tell what became of one pair, stage by stage")
                .arg(Arg::new("uid").required(true).help("32 hex characters, or the first few"))
                .arg(output().required(true)),
        )
        .subcommand(
            Command::new("verify")
                .about("Read every committed byte of an output again: hashes, counts, archives")
                .arg(output().required(true)),
        )
        .subcommand(
            Command::new("gc")
                .about("Remove what killed runs left in an output; nothing that is committed")
                .arg(output().required(true))
                .arg(
                    Arg::new("older_than")
                        .long("older_than")
                        .value_name("HOURS")
                        .value_parser(value_parser!(u64))
                        .help("In a bucket, spare attempts younger than this [default: 24]"),
                ),
        )
        .subcommand(
            Command::new("ls").about("List the samples of shards and their members").arg(shards()),
        )
        .subcommand(
            Command::new("cat")
                .about("Print one member of a sample (`KEY.txt`), or what a sample (`KEY`) says")
                .arg(Arg::new("key").required(true).value_name("KEY[.EXT]").help("As `ls` shows it"))
                .arg(shards()),
        )
        .subcommand(
            Command::new("stat").about("Count the samples and bytes of shards").arg(shards()),
        )
        .subcommand(model())
        .subcommand(
            Command::new("index")
                .about("Write an index into a folder of shards: where each member lies, and wids' list")
                .arg(Arg::new("folder").required(true).value_name("DIR|URL").help("The folder of the shards"))
                .arg(threads()),
        )
        .subcommand(
            Command::new("stream")
                .about("Write shards as one tar to stdout, shuffled so that it can be repeated and gone on with")
                .long_about(STREAM)
                .arg(shards())
                .arg(seed())
                .arg(count("window", "Samples that are shuffled among themselves, after the shards; 0 shuffles nothing [default: 4096]"))
                .arg(count("epoch", "Number of the first pass, from 0 [default: 0]"))
                .arg(count("epochs", "Passes to write [default: 1]"))
                .arg(count("count", "Most samples to write [default: all]"))
                .arg(Arg::new("share").long("share").value_name("I/N").help("Only part I of N, from 0: one for each worker of each rank"))
                .arg(Arg::new("cursor").long("cursor").value_name("CURSOR").conflicts_with("epoch").help("Go on after the sample that has this `cursor`")),
        )
        .subcommand(
            Command::new("replay")
                .about("Serve WARC files on loopback until stopped, and print the dial map for a recipe")
                .arg(Arg::new("warc").required(true).num_args(1..).help("WARC files, globs, brace ranges")),
        )
        .subcommand(
            Command::new("report")
                .about("Write the HTML report of an output again")
                .arg(recipe())
                .arg(output()),
        )
        .subcommand(super::compare::command())
        .subcommand(super::purge::command())
        .subcommand(super::purge::verify_command())
        .subcommand(super::diff::command())
        .subcommand(super::view::command())
        .subcommand(
            Command::new("completions")
                .about("Print shell completions")
                .arg(Arg::new("shell").required(true).value_parser(value_parser!(clap_complete::Shell))),
        );
    for kind in KINDS {
        if let Some(mut stage) = single::command(kind) {
            for schema in single::schemas(kind, &schema) {
                stage = flags::add(stage, &schema, single::SKIPPED);
            }
            command = command.subcommand(running(stage));
        }
    }
    command
}

fn running(command: Command) -> Command {
    command
        .arg(output())
        .arg(
            Arg::new("units")
                .long("units")
                .value_name("I/N")
                .help("Do only units u with u mod N = I; also read from SLURM_ARRAY_TASK_ID and JOB_COMPLETION_INDEX"),
        )
        .arg(
            Arg::new("redo")
                .long("redo")
                .value_name("ID")
                .action(ArgAction::Append)
                .help("Make this stage and all after it again"),
        )
        .arg(
            Arg::new("until").long("until").value_name("ID").help("Stop after this stage"),
        )
        .arg(
            Arg::new("apart")
                .long("apart")
                .action(ArgAction::SetTrue)
                .help("Run neighbouring stages one after the other where they could be one stream"),
        )
        .arg(threads())
        .arg(
            Arg::new("device")
                .long("device")
                .value_name("cpu|cuda|cuda:N")
                .value_parser(|text: &str| text.parse::<stage::Device>())
                .default_value("cpu")
                .help("Where models are trained and asked; a GPU needs a build with `--features cuda`"),
        )
        .arg(
            Arg::new("metrics")
                .long("metrics")
                .value_name("[ADDRESS:]PORT")
                .help("Serve Prometheus metrics there while it runs; a port alone is on 127.0.0.1"),
        )
        .arg(
            Arg::new("metrics_file")
                .long("metrics_file")
                .alias("metrics-file")
                .value_name("FILE.prom")
                .help("Write them into a file that is always whole, as node-exporter's textfile collector reads it"),
        )
}

fn recipe() -> Arg {
    Arg::new("recipe").required(true).value_name("RECIPE.yaml").help("The recipe")
}

fn output() -> Arg {
    Arg::new("output")
        .long("output")
        .visible_alias("output_folder")
        .alias("output-folder")
        .short('o')
        .value_name("DIR|URL")
        .help("Where everything is written; for a recipe, instead of its own `output`")
}

fn shards() -> Arg {
    Arg::new("shards").required(true).num_args(1..).value_name("SHARD.tar").help(
        "Tars, folders of tars, brace ranges (00000..00012), lists joined by `::`; paths or URLs",
    )
}

fn count(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name("N").value_parser(value_parser!(u64)).help(help)
}

fn seed() -> Arg {
    Arg::new("seed")
        .long("seed")
        .value_parser(value_parser!(u64))
        .default_value("0")
        .help("Seed of whatever is random")
}

fn threads() -> Arg {
    Arg::new("threads")
        .long("threads")
        .visible_alias("processes_count")
        .alias("processes-count")
        .value_parser(value_parser!(u16).range(1..=1024))
        .help("CPU threads [default: every core]")
}

/// `clipmill model`.
fn model() -> Command {
    Command::new("model")
        .about("List the models, or show one: parameters, multiply-adds, memory, tensors")
        .after_help(
            "Examples:
  clipmill model                                  all that have a name
  clipmill model ViTamin-L-336
  clipmill model ViT-B-16 --batch_size 256 --precision bf16
  clipmill model my-model.json --tensors",
        )
        .arg(
            Arg::new("name")
                .value_name("NAME")
                .help("A name of open_clip's, or the path of its model JSON; all without"),
        )
        .arg(
            Arg::new("batch_size")
                .long("batch_size")
                .alias("batch-size")
                .value_name("PAIRS")
                .value_parser(value_parser!(u64).range(1..=1 << 24))
                .help("Pairs in a batch, for the estimate of memory [default: 1]"),
        )
        .arg(
            Arg::new("precision")
                .long("precision")
                .value_parser(["f32", "bf16"])
                .help("Width of the numbers, for the estimate of memory [default: f32]"),
        )
        .arg(
            Arg::new("force_image_size")
                .long("force_image_size")
                .alias("force-image-size")
                .value_name("PX")
                .value_parser(value_parser!(u32).range(1..=1 << 14))
                .help("Count for pictures of this side"),
        )
        .arg(
            Arg::new("tensors")
                .long("tensors")
                .action(ArgAction::SetTrue)
                .help("Print the names and shapes of all tensors instead"),
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hyphens_and_underscores_are_the_same_for_a_model_too() {
        let words =
            ["clipmill", "model", "ViT-B-32", "--batch-size", "8", "--force-image-size", "256"];
        let matches = command().try_get_matches_from(words).unwrap();
        let (_, args) = matches.subcommand().unwrap();
        assert_eq!(args.get_one::<u64>("batch_size"), Some(&8));
        assert_eq!(args.get_one::<u32>("force_image_size"), Some(&256));
    }
}
