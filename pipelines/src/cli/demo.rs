//! `clipmill demo`: makes the world, serves it, runs the recipe, joins the truth.

use std::path::Path;
use std::sync::Arc;

use clap::ArgMatches;
use serde_json::json;
use stage::{Error, Result};

use super::progress::Talk;
use super::{Output, run};
use crate::recipe::{Graph, Recipe};
use crate::run::Options;
use crate::watch::Board;
use crate::{demo, results};

pub(crate) fn demo(args: &ArgMatches) -> Result<Output> {
    let folder =
        args.get_one::<String>("output").map_or("clipmill-demo", String::as_str).to_owned();
    let seed = args.get_one::<u64>("seed").copied().unwrap_or(0);
    std::fs::create_dir_all(&folder)
        .map_err(|e| Error::store("cannot make the folder").because(e).at(&folder))?;
    let recipe_file = Path::new(&folder).join("demo.yaml");
    if !recipe_file.exists()
        && let Some(name) = store::Output::open_existing(&folder)?.foreign("demo.yaml")?
    {
        return Err(Error::conflict(format!("the folder holds `{name}`, which no demo wrote"))
            .at(&folder)
            .hint("choose a new folder with `--output`"));
    }
    eprintln!("making a small web in {folder}/world ...");
    let web = demo::prepare(Path::new(&folder), seed)?;
    let text = demo::RECIPE.replace("\nseed: 0\n", &format!("\nseed: {seed}\n"));
    std::fs::write(&recipe_file, &text)
        .map_err(|e| Error::store("cannot write").because(e).at(recipe_file.display()))?;
    if args.get_flag("prepare") {
        let text = format!("{folder}/world and {folder}/demo.yaml are written; nothing was run");
        return Ok(Output::new(text, json!({"folder": folder})));
    }
    // The recipe's paths are relative to the demo's folder, as for a person who works in it.
    std::env::set_current_dir(&folder)
        .map_err(|e| Error::store("cannot enter the folder").because(e).at(&folder))?;
    let graph = Graph::new(Recipe::parse("demo.yaml", &text)?)?;
    let context = run::context(&graph.recipe, args);
    run::stop_on_signals(&context)?;
    let output = store::Output::open(&graph.recipe.output)?;
    let _lease = output.lock("demo")?;
    output.put(run::RESOLVED, run::resolved(&graph).to_string().into())?;
    output.put("recipe.yaml", text.clone().into())?;
    let server = web.serve()?;
    let talk = Talk::new(&Arc::new(Board::default()));
    let started = std::time::Instant::now();
    let finished =
        crate::run::run(&graph, &output, &context, &server.dial(), &Options::default(), &talk)?;
    drop(talk);
    drop(server);
    let judgement = demo::judge(Path::new("."), &finished.stages)?;
    results::write_report(&graph.recipe, &output, &finished.stages, Some(judgement.extra))?;
    let report = format!("{folder}/{}/report.html", graph.recipe.output);
    let text = format!(
        "{}\n{}\n{:.0} s, then open {report}\n",
        results::table(&finished.stages),
        judgement.text,
        started.elapsed().as_secs_f64()
    );
    let json = json!({
        "report": report,
        "seconds": started.elapsed().as_secs_f64(),
        "truth": judgement.json,
        "stages": results::summary(&finished.stages),
    });
    Ok(Output::new(text, json))
}
