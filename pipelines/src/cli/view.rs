//! `clipmill view DIR`: look at pairs in a browser, served on loopback.

use std::time::Duration;

use clap::{Arg, ArgMatches, Command, value_parser};
use serde_json::json;
use stage::{Context, Result};

use super::{Output, text_of};
use crate::view::View;

pub(crate) fn command() -> Command {
    Command::new("view")
        .about("Serve a page on loopback to browse and search a pool, a judged stage or a release")
        .after_help(
            "Pictures are blurred until they are clicked. Nothing is asked of anybody else, and nothing is\n\
             written. Similar pictures are found where an `embed` stage lies beside DIR, or by --embeddings.\n\n\
             Example:\n  clipmill view out/judge",
        )
        .arg(
            Arg::new("folder")
                .required(true)
                .value_name("DIR")
                .help("The folder of a release, or of a `fetch` or `judge` stage"),
        )
        .arg(
            Arg::new("embeddings")
                .long("embeddings")
                .value_name("DIR")
                .help("The folder of an `embed` stage [default: one beside DIR]"),
        )
        .arg(
            Arg::new("port")
                .long("port")
                .value_parser(value_parser!(u16))
                .default_value("0")
                .help("Port on 127.0.0.1; 0 takes a free one"),
        )
}

pub(crate) fn run(args: &ArgMatches) -> Result<Output> {
    let embeddings = args.get_one::<String>("embeddings").map(String::as_str);
    let view = View::open(&text_of(args, "folder")?, embeddings)?;
    let context = Context::default();
    super::run::stop_on_signals(&context)?;
    let about = view.about();
    let server = view.serve(args.get_one::<u16>("port").copied().unwrap_or(0))?;
    let url = format!("http://{}/", server.address());
    eprintln!("{about}\n{url}\nstop with Ctrl-C");
    while !context.cancel.is_cancelled() {
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(Output::new("", json!({"url": url})))
}
