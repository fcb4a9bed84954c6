//! From a source of pairs to batches of tensors, decoded ahead of the model.
//!
//! What a step sees is a function of seed and step: position `p` of a pass takes the sample that
//! the pass's permutation puts there; where that sample's picture cannot be decoded, the sample of
//! the next position takes its place, and so on. (That one is then seen twice in the pass.)

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use candle_core::{Device, Tensor};
use models::Tokenizer;
use pixels::{Limits, Picture};
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use stage::{Error, PairSource, Preprocess, Result, ResultExt};

use crate::crop;
use crate::order::{Counter, Order};
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
    /// Samples of a forward pass.
    pub batch_size: usize,
    /// Forward passes of a step.
    pub accum_freq: usize,
    /// Bytes of decoded samples to keep for the next pass.
    pub cache_bytes: usize,
    /// Threads that decode.
    pub threads: usize,
}

/// The samples of one optimiser step.
#[derive(Debug)]
pub struct Loaded {
    /// `accum_freq` batches.
    pub micro: Vec<Batch>,
    /// Samples found broken while making them: index and reason.
    pub broken: Vec<(u64, &'static str)>,
}

/// Makes steps out of a source.
pub struct Loader<'a> {
    data: &'a dyn PairSource,
    input: Input,
    order: Order,
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
        Ok(Self {
            order: Order::new(data.len() as u64, input.seed),
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
        let count = self.input.batch_size * self.input.accum_freq;
        let pass_steps = (self.data.len() / count).max(1) as u64;
        let (pass, first) = (step / pass_steps, step % pass_steps * count as u64);
        let mut found = Vec::new();
        let mut rows: Vec<Option<Row>> = (0..count).map(|_| None).collect();
        let mut open: Vec<Place> = Vec::with_capacity(count);
        for slot in 0..count {
            let position = first + slot as u64;
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
        let micro = self.batches(&rows)?;
        Ok(Loaded { micro, broken: found })
    }

    /// The first sample at or after `position` that is not known to be broken.
    fn place(&self, slot: usize, pass: u64, position: u64) -> Result<Place> {
        let samples = self.data.len() as u64;
        if self.broken.len() as u64 >= samples {
            let (index, reason) = self.broken.first_key_value().map_or((0, ""), |(i, r)| (*i, *r));
            return Err(Error::input(format!("not one of {samples} pictures can be decoded"))
                .hint(format!("look at sample {index}: {reason}")));
        }
        let mut at = position % samples;
        loop {
            let index = self.order.at(pass, at);
            if !self.broken.contains_key(&index) {
                return Ok(Place { slot, position, index });
            }
            at = (at + 1) % samples;
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
            Ok(self.row(sample, pass, place.index))
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

    fn row(&self, sample: &Sample, pass: u64, index: u64) -> Row {
        let Input { image_size: size, preprocess, aug_scale, seed, .. } = &self.input;
        let normalize = |rgb: &[u8]| pixels::normalize(rgb, *size, preprocess.mean, preprocess.std);
        let pixels = match &sample.image {
            Image::Final(rgb) => normalize(rgb),
            Image::Whole(picture) => {
                let mut numbers = Counter::new(&[*seed, pass, index]);
                let scale = aug_scale.unwrap_or([1.0, 1.0]);
                let cut = crop::random_box(picture.width, picture.height, scale, &mut numbers);
                normalize(&crop::resized(picture, cut, *size))
            }
        };
        Row { pixels, tokens: sample.tokens.clone(), uid: sample.uid.clone() }
    }

    fn batches(&self, rows: &[Row]) -> Result<Vec<Batch>> {
        let (size, context) = (self.input.image_size as usize, self.input.context_length);
        let batch = |rows: &[Row]| {
            let count = rows.len();
            let pixels: Vec<f32> = rows.iter().flat_map(|row| &row.pixels).copied().collect();
            let tokens: Vec<u32> = rows.iter().flat_map(|row| &row.tokens).copied().collect();
            Ok::<_, candle_core::Error>(Batch {
                pixels: Tensor::from_vec(pixels, (count, 3, size, size), &Device::Cpu)?,
                tokens: Tensor::from_vec(tokens, (count, context), &Device::Cpu)?,
                uids: rows.iter().map(|row| row.uid.clone()).collect(),
            })
        };
        rows.chunks(self.input.batch_size)
            .map(batch)
            .collect::<Result<_, _>>()
            .internal("cannot make a batch")
    }
}

/// One sample as the model takes it.
struct Row {
    pixels: Vec<f32>,
    tokens: Vec<u32>,
    uid: String,
}
