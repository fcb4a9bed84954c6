//! From a source of pairs to batches, decoded ahead of the model.
//!
//! What a step sees is a function of seed and step: position `p` of a pass takes the sample that
//! the pass's permutation puts there, or the one that it draws; where that sample's picture cannot
//! be decoded, the next candidate takes its place, and so on. (That one is then seen twice in the
//! pass.) Ranks divide each micro-batch among them, so that the samples of a step do not depend on
//! how many there are. Neither threads nor what was read before change anything.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use candle_core::{Device, Tensor};
use models::Tokenizer;
use pixels::{Limits, Picture};
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use stage::{Error, PairSource, Preprocess, Result, ResultExt};

use crate::crop;
use crate::order::{Counter, Order, Places};
use crate::trainer::Batch;

/// How samples become tensors.
#[derive(Debug, Clone)]
pub struct Input {
    /// Side of the picture in pixels.
    pub image_size: u32,
    /// Tokens of a caption.
    pub context_length: usize,
    /// Mean, deviation and how the evaluation resizes.
    pub preprocess: Preprocess,
    /// Kept share of the area of a random crop; `None` crops as the evaluation does.
    pub aug_scale: Option<[f64; 2]>,
    /// Seed of order and augmentation.
    pub seed: u64,
    /// Whether samples are drawn with replacement.
    pub resampled: bool,
    /// Samples of each source and how much oftener they are drawn; none where all are drawn alike.
    pub sources: Vec<(u64, f64)>,
    /// Steps of a pass, at least 1.
    pub steps_per_pass: u64,
    /// This rank and the number of ranks.
    pub rank: (usize, usize),
    /// Samples of a forward pass of one rank.
    pub batch_size: usize,
    /// Forward passes of a step.
    pub accum_freq: usize,
    /// Bytes of decoded samples to keep for the next pass.
    pub cache_bytes: usize,
    /// Threads that decode.
    pub threads: usize,
    /// Where the model takes its pictures; captions stay in main memory.
    pub device: Device,
}

/// The samples of one optimiser step of this rank.
#[derive(Debug)]
pub struct Loaded {
    /// `accum_freq` of them.
    pub micro: Vec<Rows>,
    /// Samples found broken while making them: index and reason.
    pub broken: Vec<(u64, &'static str)>,
}

/// Samples of one forward pass: bytes, a quarter of what the model takes.
#[derive(Debug)]
pub struct Rows {
    /// B·S·S·3, interleaved RGB.
    rgb: Vec<u8>,
    /// B·context.
    tokens: Vec<u32>,
    /// Who they are.
    pub uids: Vec<String>,
}

impl Rows {
    /// The tensors that the model takes.
    ///
    /// # Errors
    /// Memory.
    pub fn batch(&self, input: &Input) -> Result<Batch> {
        let (size, count) = (input.image_size as usize, self.uids.len());
        let picture = size * size * 3;
        let Preprocess { mean, std, .. } = &input.preprocess;
        let mut pixels = vec![0.0_f32; count * picture];
        pixels.par_chunks_mut(picture).zip(self.rgb.par_chunks(picture)).for_each(|(out, rgb)| {
            out.copy_from_slice(&pixels::normalize(rgb, input.image_size, *mean, *std));
        });
        let tensors = || {
            Ok::<_, candle_core::Error>(Batch {
                pixels: Tensor::from_vec(pixels, (count, 3, size, size), &input.device)?,
                tokens: Tensor::from_slice(
                    &self.tokens,
                    (count, input.context_length),
                    &Device::Cpu,
                )?,
                uids: self.uids.clone(),
            })
        };
        tensors().internal("cannot make a batch")
    }

    /// The length of each caption: its end is its largest token.
    pub fn caption_lengths(&self) -> impl Iterator<Item = usize> {
        let context = self.tokens.len() / self.uids.len().max(1);
        self.tokens.chunks(context.max(1)).map(|row| {
            let end = row.iter().enumerate().rev().max_by_key(|(_, id)| **id);
            end.map_or(0, |(place, _)| place + 1)
        })
    }
}

/// Makes steps out of a source.
pub struct Loader<'a> {
    data: &'a dyn PairSource,
    input: Input,
    places: Places,
    tokenizer: Tokenizer,
    pool: ThreadPool,
    cache: HashMap<u64, Arc<Sample>>,
    cached_bytes: usize,
    broken: BTreeMap<u64, &'static str>,
}

/// A decoded sample.
struct Sample {
    uid: String,
    tokens: Vec<u32>,
    image: Image,
}

enum Image {
    /// To be cropped anew in every pass.
    Whole(Picture),
    /// The evaluation's crop, the same in every pass: S·S·3.
    Final(Vec<u8>),
}

/// A place in the step and the sample that is to fill it.
#[derive(Clone, Copy)]
struct Place {
    slot: usize,
    position: u64,
    index: u64,
}

/// Rows read from the source at once: bounds what a step of 90,112 samples holds encoded.
const READ: usize = 256;

impl<'a> Loader<'a> {
    /// Prepares to read from `data`, which is not empty.
    pub fn new(data: &'a dyn PairSource, input: Input) -> Result<Self> {
        let pool = ThreadPoolBuilder::new()
            .num_threads(input.threads.max(1))
            .thread_name(|i| format!("decode-{i}"))
            .build()
            .internal("cannot start decoding threads")?;
        let (samples, seed) = (data.len() as u64, input.seed);
        let places = match input.resampled {
            true if !input.sources.is_empty() => Places::weighted(&input.sources, seed),
            true => Places::Resampled { samples, seed },
            false => Places::Permuted(Order::new(samples, seed)),
        };
        Ok(Self {
            places,
            data,
            input,
            tokenizer: Tokenizer::clip(),
            pool,
            cache: HashMap::new(),
            cached_bytes: 0,
            broken: BTreeMap::new(),
        })
    }

    /// The samples of step `step`.
    ///
    /// # Errors
    /// When the source cannot be read, or not one of its pictures can be decoded.
    pub fn step(&mut self, step: u64) -> Result<Loaded> {
        let Input { batch_size, accum_freq, rank: (rank, ranks), .. } = self.input;
        let count = batch_size * accum_freq;
        let pass_steps = self.input.steps_per_pass.max(1);
        let (pass, first) = (step / pass_steps, step % pass_steps * (count * ranks) as u64);
        let mut found = Vec::new();
        let mut rows: Vec<Option<Row>> = (0..count).map(|_| None).collect();
        let mut open: Vec<Place> = Vec::with_capacity(count);
        for slot in 0..count {
            let (micro, row) = (slot / batch_size, slot % batch_size);
            let position = first + ((micro * ranks + rank) * batch_size + row) as u64;
            open.push(self.place(slot, pass, position)?);
        }
        while !open.is_empty() {
            let mut again = Vec::new();
            for places in open.chunks(READ) {
                let read = self.rows(places, pass)?;
                for (place, row) in places.iter().zip(read) {
                    match row {
                        Ok(row) => rows[place.slot] = Some(row),
                        Err(reason) => {
                            if self.broken.insert(place.index, reason).is_none() {
                                found.push((place.index, reason));
                            }
                            again.push(*place);
                        }
                    }
                }
            }
            open.clear();
            for place in again {
                open.push(self.place(place.slot, pass, place.position)?);
            }
        }
        let rows: Vec<Row> = rows.into_iter().flatten().collect();
        let micro = rows.chunks(batch_size).map(joined).collect();
        Ok(Loaded { micro, broken: found })
    }

    /// These samples in this order; what is broken is left out.
    ///
    /// # Errors
    /// When the source cannot be read.
    pub fn in_order(&mut self, indices: &[u64]) -> Result<Rows> {
        let place = |(slot, index): (usize, &u64)| Place { slot, position: *index, index: *index };
        let places: Vec<Place> = indices.iter().enumerate().map(place).collect();
        let rows: Vec<Row> = self.rows(&places, 0)?.into_iter().filter_map(Result::ok).collect();
        Ok(joined(&rows))
    }

    /// The first candidate for `position` that is not known to be broken.
    fn place(&self, slot: usize, pass: u64, position: u64) -> Result<Place> {
        let samples = self.places.samples();
        if self.broken.len() as u64 >= samples {
            let (index, reason) = self.broken.first_key_value().map_or((0, ""), |(i, r)| (*i, *r));
            return Err(Error::input(format!("not one of {samples} pictures can be decoded"))
                .hint(format!("look at sample {index}: {reason}")));
        }
        let mut candidates = self.places.candidates(pass, position);
        match candidates.find(|index| !self.broken.contains_key(index)) {
            Some(index) => Ok(Place { slot, position, index }),
            None => Err(Error::internal("the order of the samples ended")),
        }
    }

    /// Pixels and tokens for these places; a reason where the picture cannot be decoded.
    fn rows(&mut self, places: &[Place], pass: u64) -> Result<Vec<Result<Row, &'static str>>> {
        let mut missing: Vec<usize> = places
            .iter()
            .map(|place| place.index)
            .filter(|index| !self.cache.contains_key(index))
            .map(|index| index as usize)
            .collect();
        missing.sort_unstable(); // neighbours in the source lie in one shard
        missing.dedup();
        let mut fresh: HashMap<u64, Result<Arc<Sample>, &'static str>> = HashMap::new();
        if !missing.is_empty() {
            let pairs = self.data.read(&missing)?;
            if pairs.len() != missing.len() {
                return Err(Error::internal(format!(
                    "asked the source for {} samples, got {}",
                    missing.len(),
                    pairs.len()
                )));
            }
            let decode = |row: usize| self.decode(&pairs, row);
            let decoded: Vec<_> =
                self.pool.install(|| (0..missing.len()).into_par_iter().map(decode).collect());
            for (index, sample) in missing.iter().zip(decoded) {
                let sample = sample.map(Arc::new);
                if let Ok(sample) = &sample {
                    self.keep(*index as u64, sample);
                }
                fresh.insert(*index as u64, sample);
            }
        }
        let row = |place: &Place| {
            let sample = match (self.cache.get(&place.index), fresh.get(&place.index)) {
                (Some(sample), _) | (None, Some(Ok(sample))) => sample,
                (None, Some(Err(reason))) => return Err(*reason),
                (None, None) => return Err("not_read"),
            };
            Ok(self.row(sample, pass, place))
        };
        Ok(self.pool.install(|| places.par_iter().map(row).collect()))
    }

    fn decode(&self, pairs: &stage::Pairs, row: usize) -> Result<Sample, &'static str> {
        let bytes = pairs.image(row).ok_or("no_image")?;
        let picture = pixels::decode_rgb_first(bytes, &Limits::default()).map_err(|r| r.reason)?;
        let Input { image_size, preprocess, aug_scale, .. } = &self.input;
        let image = match aug_scale {
            Some(_) => Image::Whole(picture),
            None => {
                Image::Final(pixels::clip_pixels(&picture, *image_size, &preprocess.resize_mode))
            }
        };
        let tokens = self.tokenizer.context(pairs.captions().value(row), self.input.context_length);
        Ok(Sample { uid: pairs.uids().value(row).to_owned(), tokens, image })
    }

    /// Keeps a sample while there is room; which ones depends on the order of the steps alone.
    fn keep(&mut self, index: u64, sample: &Arc<Sample>) {
        let image = match &sample.image {
            Image::Whole(picture) => picture.rgb.len(),
            Image::Final(rgb) => rgb.len(),
        };
        let bytes = image + sample.tokens.len() * 4 + 128;
        if self.cached_bytes + bytes <= self.input.cache_bytes {
            self.cached_bytes += bytes;
            self.cache.insert(index, Arc::clone(sample));
        }
    }

    fn row(&self, sample: &Sample, pass: u64, place: &Place) -> Row {
        let Input { image_size: size, aug_scale, seed, resampled, .. } = &self.input;
        let rgb = match &sample.image {
            Image::Final(rgb) => rgb.clone(),
            Image::Whole(picture) => {
                // A sample drawn twice in an epoch is cropped twice.
                let twice = if *resampled { &[place.position][..] } else { &[] };
                let mut numbers = Counter::new(&[&[*seed, pass, place.index], twice].concat());
                let scale = aug_scale.unwrap_or([1.0, 1.0]);
                let cut = crop::random_box(picture.width, picture.height, scale, &mut numbers);
                crop::resized(picture, cut, *size)
            }
        };
        Row { rgb, tokens: sample.tokens.clone(), uid: sample.uid.clone() }
    }
}

fn joined(rows: &[Row]) -> Rows {
    Rows {
        rgb: rows.iter().flat_map(|row| &row.rgb).copied().collect(),
        tokens: rows.iter().flat_map(|row| &row.tokens).copied().collect(),
        uids: rows.iter().map(|row| row.uid.clone()).collect(),
    }
}

/// One sample, cropped.
struct Row {
    rgb: Vec<u8>,
    tokens: Vec<u32>,
    uid: String,
}
