//! `model`: what an architecture costs, from its configuration alone.

use clap::ArgMatches;
use models::count::{self, Macs, Purpose};
use models::{ClipConfig, VisionConfig};
use serde_json::{Value, json};
use stage::{Error, Result};

use super::Output;

pub(crate) fn model(args: &ArgMatches) -> Result<Output> {
    match args.get_one::<String>("name") {
        None => list(),
        Some(name) => one(name, args),
    }
}

/// A table of all that have a name.
fn list() -> Result<Output> {
    let mut text = format!(
        "{:<28} {:>5} {:>6} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}\n",
        "model", "image", "tokens", "image", "text", "all", "image", "with", "text"
    );
    text.push_str(&format!(
        "{:<28} {:>5} {:>6} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}\n",
        "", "px", "", "M param", "M param", "M param", "GMAC", "attention", "GMAC"
    ));
    let mut all = Vec::new();
    for name in ClipConfig::names() {
        let config = ClipConfig::named(&name)?;
        let facts = Facts::of(&config);
        let giga = |macs: u64| macs as f64 / 1e9;
        let mega = |count: u64| count as f64 / 1e6;
        text.push_str(&format!(
            "{name:<28} {:>5} {:>6} {:>9.2} {:>9.2} {:>9.2} {:>9.2} {:>9.2} {:>9.2}\n",
            config.image_size(),
            facts.tokens,
            mega(facts.image_parameters),
            mega(facts.parameters - facts.image_parameters),
            mega(facts.parameters),
            giga(facts.image.without_attention()),
            giga(facts.image.with_attention()),
            giga(facts.text.with_attention()),
        ));
        let mut row = facts.json(&config);
        row["name"] = json!(name);
        all.push(row);
    }
    text.push_str(
        "\nGMAC as ViTamin's paper counts (convolutions, linear layers, five for an element of a \
         LayerNorm),\nand with the products of attention, as timm's tables; `clipmill model NAME` \
         shows the parts.\n",
    );
    Ok(Output::new(text, Value::Array(all)))
}

/// One model in full.
fn one(name: &str, args: &ArgMatches) -> Result<Output> {
    let mut config = ClipConfig::named(name)?;
    if let Some(side) = args.get_one::<u32>("force_image_size") {
        config = config.with_image_size(*side as usize)?;
    }
    if args.get_flag("tensors") {
        return Ok(tensors(&config));
    }
    let batch = args.get_one::<u64>("batch_size").copied().unwrap_or(1);
    let precision = args.get_one::<String>("precision").map_or("f32", String::as_str);
    let width = match precision {
        "f32" => 4,
        "bf16" => 2,
        other => return Err(Error::recipe(format!("no precision `{other}`, only f32 and bf16"))),
    };
    let facts = Facts::of(&config);
    let mut text = format!("{name}\n");
    let tower = match &config.vision {
        VisionConfig::Vit(v) => format!(
            "ViT, {} blocks of width {}, {} heads, FFN {}, patches of {} px",
            v.layers,
            v.width,
            v.heads(),
            v.hidden(),
            v.patch_size
        ),
        VisionConfig::Vitamin(v) => format!(
            "ViTamin, stem {}, MBConv {} x {} and {} x {}, {} blocks of width {}, {} heads",
            v.stem_width,
            v.depths[0],
            v.widths[0],
            v.depths[1],
            v.widths[1],
            v.depths[2],
            v.width(),
            v.heads
        ),
    };
    text.push_str(&format!("  image tower   {tower}\n"));
    text.push_str(&format!(
        "  pictures      {0} x {0} px, {1} tokens\n",
        config.image_size(),
        facts.tokens
    ));
    let t = &config.text;
    text.push_str(&format!(
        "  text tower    {} blocks of width {}, {} heads, context {}, vocabulary {}\n",
        t.layers, t.width, t.heads, t.context_length, t.vocab_size
    ));
    if let Some(tokenizer) = &t.tokenizer {
        text.push_str(&format!(
            "  tokenizer     {tokenizer}: not implemented, captions cannot be encoded\n"
        ));
    }
    text.push_str(&format!("  common space  {}\n", config.embed_dim()));
    text.push_str(&format!(
        "  parameters    image {}, text {}, all {}\n",
        grouped(facts.image_parameters),
        grouped(facts.parameters - facts.image_parameters),
        grouped(facts.parameters)
    ));
    for (what, macs) in [("image", facts.image), ("text", facts.text)] {
        text.push_str(&format!(
            "  {what:<5} MACs    convolution {}, linear {}, norm {}, attention {}, projection {}\n",
            grouped(macs.convolution),
            grouped(macs.linear),
            grouped(macs.norm),
            grouped(macs.attention),
            grouped(macs.projection)
        ));
        text.push_str(&format!(
            "                {} without attention, {} with; {:.2} GFLOP in open_clip's table\n",
            grouped(macs.without_attention()),
            grouped(macs.with_attention()),
            macs.flops() as f64 / 1e9
        ));
    }
    let mut row = facts.json(&config);
    text.push_str(&format!("  memory        batch {batch}, {precision}:"));
    let mut memory = serde_json::Map::new();
    for (word, purpose) in [
        ("inference", Purpose::Inference),
        ("training", Purpose::Training),
        ("training with grad_checkpointing", Purpose::Recompute),
    ] {
        let bytes = count::memory(&config, batch, width, purpose);
        text.push_str(&format!(" {word} {:.2} GiB;", bytes as f64 / f64::from(1u32 << 30)));
        memory.insert(word.replace(' ', "_"), json!(bytes));
    }
    text.pop();
    text.push_str(
        " (estimated; parameters and what lies between layers in f32, for inference with a copy of \
         the blocks' weights in this precision)\n",
    );
    row["name"] = json!(name);
    row["memory"] = json!({"batch_size": batch, "precision": precision, "bytes": memory});
    row["config"] = config.to_json();
    Ok(Output::new(text, row))
}

/// Names and shapes, one a line.
fn tensors(config: &ClipConfig) -> Output {
    let all = config.tensors();
    let mut text = String::new();
    for (name, dims) in &all {
        text.push_str(&format!("{name}\t{dims:?}\n"));
    }
    let list: Vec<Value> =
        all.iter().map(|(name, dims)| json!({"name": name, "shape": dims})).collect();
    Output::new(text, Value::Array(list))
}

struct Facts {
    tokens: usize,
    image_parameters: u64,
    parameters: u64,
    image: Macs,
    text: Macs,
}

impl Facts {
    fn of(config: &ClipConfig) -> Self {
        let tokens = match &config.vision {
            VisionConfig::Vit(vit) => vit.patches() + 1,
            VisionConfig::Vitamin(vitamin) => vitamin.tokens(),
        };
        Self {
            tokens,
            image_parameters: config.image_parameters(),
            parameters: config.parameters(),
            image: count::image(config),
            text: count::text(config),
        }
    }

    fn json(&self, config: &ClipConfig) -> Value {
        let macs = |macs: &Macs| {
            json!({
                "convolution": macs.convolution,
                "linear": macs.linear,
                "norm": macs.norm,
                "attention": macs.attention,
                "projection": macs.projection,
                "without_attention": macs.without_attention(),
                "with_attention": macs.with_attention(),
            })
        };
        json!({
            "image_size": config.image_size(),
            "tokens": self.tokens,
            "embed_dim": config.embed_dim(),
            "image_parameters": self.image_parameters,
            "text_parameters": self.parameters - self.image_parameters,
            "parameters": self.parameters,
            "image_macs": macs(&self.image),
            "text_macs": macs(&self.text),
        })
    }
}

/// With a comma before every three digits.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_come_in_threes() {
        assert_eq!(grouped(7), "7");
        assert_eq!(grouped(123_456), "123,456");
        assert_eq!(grouped(1_234_567), "1,234,567");
    }
}
