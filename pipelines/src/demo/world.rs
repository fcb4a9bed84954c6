//! A small real web: pictures under true host names, pages that show them, and everything wrong
//! that the real web has, in known amounts.
//!
//! The truth about each link is returned beside the world and is written where the run cannot
//! read it; only the report joins the two.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use stage::Dice;

use super::concepts::{self, Emoji};
use super::faults;

/// Share of concepts that nobody trains on.
const HELD_OUT: f64 = 0.15;
/// Share of concepts in the clean seed set.
const SEED_SET: f64 = 0.25;
/// Share of the pool's captions that belong to another picture.
const SWAPPED: f64 = 0.40;
/// Pictures on a page.
const PAGE: usize = 12;

/// What is known of one link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Truth {
    pub(crate) url: String,
    pub(crate) alt: String,
    /// `ok`, or what is wrong with it.
    pub(crate) fault: Fault,
    /// Whether the caption belongs to the picture.
    pub(crate) matches: bool,
}

/// What is wrong with a link, the caption apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Fault {
    /// Nothing.
    Ok,
    /// The same picture and caption on another page: one uid.
    ExactDuplicate,
    /// The same picture under another URL.
    NearDuplicate,
    /// A caption that describes nothing.
    ShortCaption,
    /// A few pixels.
    Tiny,
    /// A banner, far wider than high.
    Banner,
    /// More pixels than anyone needs, declared in a few bytes.
    Huge,
    /// A JPEG that stops in the middle.
    Truncated,
    /// A web page where a picture should be.
    Html,
    /// A small JPEG whose decoding costs seconds.
    ScanBomb,
    /// 404.
    Gone,
    /// One byte now and then.
    Slow,
    /// A body without end.
    Endless,
    /// robots.txt says no.
    Robots,
    /// X-Robots-Tag says noai.
    NoAi,
}

/// How a URL answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// 200 with this type and body.
    Picture(&'static str, Vec<u8>),
    /// 200 with a noai header.
    NoAi(Vec<u8>),
    /// 200 with a page.
    Html,
    /// 404.
    Gone,
    /// Drips.
    Slow(Vec<u8>),
    /// Never ends.
    Endless,
}

/// The web and what is true of it.
pub(crate) struct World {
    /// Answers by `host` and path.
    pub(crate) answers: BTreeMap<(String, String), Answer>,
    /// Hosts whose robots.txt refuses everybody.
    pub(crate) closed: Vec<String>,
    /// Pages: URL, and (src, alt) of each picture.
    pub(crate) pages: Vec<(String, Vec<(String, String)>)>,
    /// One entry a link on a page.
    pub(crate) truth: Vec<Truth>,
    /// Clean pairs for the data-filtering network.
    pub(crate) seed_set: Vec<Emoji>,
    /// Clean pairs of concepts that occur nowhere else.
    pub(crate) held_out: Vec<Emoji>,
}

impl World {
    /// The world of this seed; the same on every machine.
    pub(crate) fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let mut groups: Vec<Vec<Emoji>> =
            concepts::by_concept(concepts::all()).into_values().collect();
        dice.shuffle(&mut groups);
        let total: usize = groups.iter().map(Vec::len).sum();
        let (mut held_out, mut seed_set, mut pool) = (Vec::new(), Vec::new(), Vec::new());
        for group in groups {
            // Whole concepts go to the first side that is not yet full.
            let side = if (held_out.len() as f64) < HELD_OUT * total as f64 {
                &mut held_out
            } else if (seed_set.len() as f64) < SEED_SET * total as f64 {
                &mut seed_set
            } else {
                &mut pool
            };
            side.extend(group);
        }
        let mut world = Self {
            answers: BTreeMap::new(),
            closed: Vec::new(),
            pages: Vec::new(),
            truth: Vec::new(),
            seed_set,
            held_out,
        };
        world.furnish(pool, &mut dice);
        world
    }

    /// Puts the pool on hosts and pages.
    fn furnish(&mut self, mut pool: Vec<Emoji>, dice: &mut Dice) {
        dice.shuffle(&mut pool);
        let captions = swap(&pool, dice);
        let mut links = Vec::new();
        for (index, (emoji, (caption, matches))) in pool.iter().zip(&captions).enumerate() {
            let host = format!("pictures-{:02}.example", index % 40);
            let url = format!("http://{host}/{}.png", emoji.code);
            self.answer(&url, Answer::Picture("image/png", emoji.png.to_vec()));
            links.push((url, caption.clone(), Fault::Ok, *matches));
        }
        let good = links.clone();
        let mut pick =
            |n: usize| -> Vec<usize> { (0..n).map(|_| dice.below(good.len())).collect() };
        for i in pick(60) {
            let (url, alt, _, matches) = good[i].clone();
            links.push((url, alt, Fault::ExactDuplicate, matches));
        }
        for (n, i) in pick(60).into_iter().enumerate() {
            let url = format!("https://mirror-{}.example/copies/{n}.jpg", n % 5);
            self.answer(&url, Answer::Picture("image/jpeg", faults::as_jpeg(pool[i].png)));
            links.push((url, good[i].1.clone(), Fault::NearDuplicate, good[i].3));
        }
        for (n, i) in pick(60).into_iter().enumerate() {
            let url = format!("http://lazy-{}.example/{n}.png", n % 4);
            self.answer(&url, Answer::Picture("image/png", pool[i].png.to_vec()));
            links.push((
                url,
                ["image", "img", "photo"][n % 3].to_owned(),
                Fault::ShortCaption,
                false,
            ));
        }
        let broken: [(Fault, usize, &str); 11] = [
            (Fault::Tiny, 40, "icons"),
            (Fault::Banner, 30, "adverts"),
            (Fault::Huge, 10, "posters"),
            (Fault::Truncated, 30, "cut"),
            (Fault::Html, 20, "pages"),
            (Fault::ScanBomb, 5, "bombs"),
            (Fault::Gone, 60, "gone"),
            (Fault::Slow, 6, "slow"),
            (Fault::Endless, 4, "endless"),
            (Fault::Robots, 30, "closed"),
            (Fault::NoAi, 30, "noai"),
        ];
        for (fault, count, word) in broken {
            for (n, i) in pick(count).into_iter().enumerate() {
                let host = format!("{word}-{}.example", n % 3);
                let png = pool[i].png;
                let (name, answer) = match fault {
                    Fault::Tiny => ("png", Answer::Picture("image/png", faults::tiny())),
                    Fault::Banner => ("png", Answer::Picture("image/png", faults::banner(n))),
                    Fault::Huge => ("png", Answer::Picture("image/png", faults::huge())),
                    Fault::Truncated => {
                        ("jpg", Answer::Picture("image/jpeg", faults::truncated(png)))
                    }
                    Fault::Html => ("jpg", Answer::Html),
                    Fault::ScanBomb => ("jpg", Answer::Picture("image/jpeg", faults::scan_bomb())),
                    Fault::Gone => ("jpg", Answer::Gone),
                    Fault::Slow => ("png", Answer::Slow(png.to_vec())),
                    Fault::Endless => ("png", Answer::Endless),
                    Fault::NoAi => ("png", Answer::NoAi(png.to_vec())),
                    _ => ("png", Answer::Picture("image/png", png.to_vec())),
                };
                if fault == Fault::Robots && !self.closed.contains(&host) {
                    self.closed.push(host.clone());
                }
                let url = format!("http://{host}/{n}.{name}");
                self.answer(&url, answer);
                links.push((url, pool[i].caption.clone(), fault, true));
            }
        }
        dice.shuffle(&mut links);
        for (number, chunk) in links.chunks(PAGE).enumerate() {
            let page = format!("http://blog-{:02}.example/{number}.html", number % 12);
            let pictures = chunk.iter().map(|(url, alt, ..)| (url.clone(), alt.clone())).collect();
            self.pages.push((page, pictures));
        }
        self.truth = links
            .into_iter()
            .map(|(url, alt, fault, matches)| Truth { url, alt, fault, matches })
            .collect();
    }

    fn answer(&mut self, url: &str, answer: Answer) {
        let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        self.answers.insert((host.to_owned(), format!("/{path}")), answer);
    }
}

/// Captions of the pool, a known share of them rotated among themselves.
fn swap(pool: &[Emoji], dice: &mut Dice) -> Vec<(String, bool)> {
    let mut order: Vec<usize> = (0..pool.len()).collect();
    dice.shuffle(&mut order);
    let swapped = &order[..(pool.len() as f64 * SWAPPED) as usize];
    let mut captions: Vec<(String, bool)> =
        pool.iter().map(|e| (e.caption.clone(), true)).collect();
    for (k, &i) in swapped.iter().enumerate() {
        let j = swapped[(k + 1) % swapped.len()];
        // Two pictures of one concept may share every word; then the caption still fits.
        captions[i] = (pool[j].caption.clone(), pool[j].caption == pool[i].caption);
    }
    captions
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn seed_set_pool_and_held_out_share_no_concept() {
        let world = World::new(0);
        let concepts =
            |side: &[Emoji]| side.iter().map(|e| e.concept.clone()).collect::<BTreeSet<_>>();
        assert!(concepts(&world.seed_set).is_disjoint(&concepts(&world.held_out)));
        let codes: BTreeSet<&str> =
            world.seed_set.iter().chain(&world.held_out).map(|e| e.code.as_str()).collect();
        let served = world.answers.keys().filter(|(host, _)| host.starts_with("pictures-"));
        assert!(served.clone().count() > 900);
        for (_, path) in served {
            assert!(
                !codes.contains(path.trim_start_matches('/').trim_end_matches(".png")),
                "{path}"
            );
        }
    }

    #[test]
    fn forty_percent_of_the_pools_captions_are_another_pictures() {
        let world = World::new(0);
        let ok: Vec<_> = world.truth.iter().filter(|t| t.fault == Fault::Ok).collect();
        let swapped = ok.iter().filter(|t| !t.matches).count() as f64 / ok.len() as f64;
        assert!((0.38..=0.40).contains(&swapped), "{swapped}");
    }

    #[test]
    fn one_seed_makes_one_world() {
        assert_eq!(World::new(3).pages, World::new(3).pages);
        assert_ne!(World::new(3).pages, World::new(4).pages);
    }
}
