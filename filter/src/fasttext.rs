//! fastText classifiers: the `.bin` and `.ftz` files of `facebookresearch/fastText`, read and
//! asked for the best label of a line.
//!
//! What is read is what `lid.176` needs: a supervised model of version 12 (or 11, without
//! subwords) with hierarchical softmax or softmax and word n-grams of one word, dense or quantised.
//! Anything else is refused by name. Sources: `src/fasttext.cc`, `dictionary.cc`, `matrix`,
//! `productquantizer.cc`, `loss.cc`.
//!
//! A quantised matrix is made dense when it is opened: its rows are products of a norm and
//! centroids, rounded as fastText rounds them, so that the sum over a line is bit for bit the same.
//!
//! Reading order: [`Model`] here, `words` (a line to rows of the input matrix), `matrix`, `tree`
//! (from the sum of the rows to a label), `bytes` (numbers of a file that may lie).

mod bytes;
mod matrix;
mod tree;
mod words;

use bytes::Bytes;
use matrix::Matrix;
use stage::{Error, Result};
use store::Blob;
use tree::Tree;
use words::Words;

/// A classifier in memory. It holds no state of a line: threads may share it.
#[derive(Debug)]
pub struct Model {
    words: Words,
    input: Matrix,
    output: Matrix,
    loss: Loss,
}

/// From the product of a line's vector with the output matrix to a probability.
#[derive(Debug)]
enum Loss {
    HierarchicalSoftmax(Tree),
    Softmax,
}

/// Memory for the lines of one thread.
#[derive(Debug, Default)]
pub struct Scratch {
    rows: Vec<u32>,
    sum: Vec<f32>,
    stack: Vec<(u32, f32)>,
}

/// Settings at the head of a file.
struct Settings {
    dim: usize,
    loss: i32,
    bucket: u32,
    /// Shortest and longest piece of a word, in characters.
    pieces: (usize, usize),
}

const MAGIC: i32 = 793_712_314;
/// `lid.176.bin` has 131 MB.
const MAX_FILE: u64 = 4 << 30;
const HIERARCHICAL_SOFTMAX: i32 = 1;
const SOFTMAX: i32 = 3;
const SUPERVISED: i32 = 3;

impl Model {
    /// Reads a model (a path or an object_store URL).
    ///
    /// # Errors
    /// [`stage::Kind::Input`] that names the file: missing, broken, or of a kind that is not read.
    pub fn open(url: &str) -> Result<Self> {
        Self::read(&Blob::open(url)?)
    }

    /// Reads a model.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn read(blob: &Blob) -> Result<Self> {
        let read = || {
            if blob.len() > MAX_FILE {
                let message = format!("{} bytes; at most {MAX_FILE} are read", blob.len());
                return Err(Error::input(message));
            }
            Self::parse(&blob.read_all()?)
        };
        read().map_err(|e| {
            e.at(blob.name()).hint("give fastText's lid.176.ftz or lid.176.bin, or a like model")
        })
    }

    fn parse(file: &[u8]) -> Result<Self> {
        let mut bytes = Bytes::new(file);
        let settings = Settings::read(&mut bytes)?;
        let mut words = Words::read(&mut bytes, settings.bucket, settings.pieces)?;
        let quantised = bytes.flag()?;
        if !quantised && words.is_pruned() {
            return Err(Error::input("a pruned vocabulary without a quantised matrix"));
        }
        let mut input = Matrix::read(&mut bytes, quantised, [words.rows(), settings.dim])?;
        let quantised_output = bytes.flag()?;
        let shape = [words.labels().len(), settings.dim];
        let output = Matrix::read(&mut bytes, quantised && quantised_output, shape)?;
        input.order_from(words.vocabulary(), &words.take_order());
        let loss = match settings.loss {
            HIERARCHICAL_SOFTMAX => Loss::HierarchicalSoftmax(Tree::new(words.label_counts())?),
            _ => Loss::Softmax,
        };
        Ok(Self { words, input, output, loss })
    }

    /// All labels, in the file's order, such as `__label__en`.
    #[must_use]
    pub fn labels(&self) -> &[String] {
        self.words.labels()
    }

    /// The most probable label's number and its probability (to about 1e-6 of fastText's, which
    /// adds 1e-5 before each logarithm), as `predict(line, k=1)` of the Python package; a line
    /// break ends the line. `None` where the model knows no part of the line.
    #[must_use]
    pub fn predict(&self, line: &str, scratch: &mut Scratch) -> Option<(usize, f32)> {
        let Scratch { rows, sum, stack } = scratch;
        self.words.line(line.as_bytes(), rows);
        if rows.is_empty() {
            return None;
        }
        self.input.mean(rows, sum);
        match &self.loss {
            Loss::HierarchicalSoftmax(tree) => tree.best(&self.output, sum, stack),
            Loss::Softmax => tree::softmax(&self.output, sum),
        }
    }
}

impl Settings {
    fn read(bytes: &mut Bytes<'_>) -> Result<Self> {
        if bytes.i32()? != MAGIC {
            return Err(Error::input("not a fastText model"));
        }
        let version = bytes.i32()?;
        if ![11, 12].contains(&version) {
            return Err(Error::input(format!(
                "a fastText model of version {version}; 11 and 12 are read"
            )));
        }
        // dim, ws, epoch, minCount, neg, wordNgrams, loss, model, bucket, minn, maxn,
        // lrUpdateRate, t
        let mut fields = [0; 12];
        for field in &mut fields {
            *field = bytes.i32()?;
        }
        bytes.skip(8)?;
        let [dim, _, _, _, _, ngrams, loss, model, bucket, minn, maxn, _] = fields;
        // Models of version 11 have no subwords, whatever the field says (`Args::load`).
        let maxn = if version == 11 && model == SUPERVISED { 0 } else { maxn };
        let refuse = |what: String| Err(Error::input(what));
        match () {
            () if model != SUPERVISED => {
                refuse(format!("a model of kind {model}; only supervised ones are read"))
            }
            () if ![HIERARCHICAL_SOFTMAX, SOFTMAX].contains(&loss) => refuse(format!(
                "a loss of kind {loss}; hierarchical softmax (1) and softmax (3) are read"
            )),
            () if ngrams > 1 => {
                refuse(format!("n-grams of {ngrams} words; only single words are read"))
            }
            () if !(1..=4096).contains(&dim) => {
                refuse(format!("vectors of {dim} numbers; 1 to 4096 are read"))
            }
            () if !(0..=1 << 27).contains(&bucket) => {
                refuse(format!("{bucket} buckets; at most 2^27 are read"))
            }
            () if !(0..=64).contains(&minn) || !(0..=64).contains(&maxn) => {
                refuse(format!("pieces of {minn} to {maxn} characters; 0 to 64 are read"))
            }
            () => Ok(Self {
                dim: dim.unsigned_abs() as usize,
                loss,
                bucket: bucket.unsigned_abs(),
                pieces: (minn.unsigned_abs() as usize, maxn.unsigned_abs() as usize),
            }),
        }
    }
}
