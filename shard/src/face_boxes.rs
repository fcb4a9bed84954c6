//! The boxes of faces of a set of shards: DataComp's column `face_bboxes`, joined by uid.

use std::collections::{HashMap, HashSet};

use arrow_array::cast::AsArray;
use arrow_array::types::Float64Type;
use arrow_array::{Array, GenericListArray};
use arrow_cast::cast;
use arrow_schema::{DataType, Field};
use pixels::blur::{Face, is_box};
use stage::{Error, Result, ResultExt};
use store::Blob;
use store::parquet::{File, Pick};
use store::subset::Uid;

use crate::shards::Shards;

/// The column that holds the boxes.
const COLUMN: &str = "face_bboxes";
const HINT: &str =
    "name a judge with the rule `faces`, or parquet files with the columns `uid` and `face_bboxes`";

/// For each sample of some [`Shards`]: its faces, or that nobody looked for any.
#[derive(Debug)]
pub struct FaceBoxes(Vec<Option<Box<[Face]>>>);

impl FaceBoxes {
    /// Reads the columns `uid` and `face_bboxes` (lists of `[x_min, y_min, x_max, y_max]`, shares
    /// of the stored picture's width and height) of these parquet files. An empty list is a picture
    /// without a face; a null, and a uid that no file has, a picture that nobody looked at. Of rows
    /// with one uid the faces of all count, and a null counts more than they.
    ///
    /// # Errors
    /// A missing column, a box that is none or is in pixels (with file and row), or a file that
    /// cannot be read.
    pub fn read(sources: &Shards, files: &[String]) -> Result<Self> {
        let mut at: HashMap<Uid, Vec<usize>> = HashMap::new();
        for (sample, &uid) in sources.uids()?.iter().enumerate() {
            at.entry(uid).or_default().push(sample);
        }
        let mut boxes: Vec<Option<Box<[Face]>>> = vec![None; sources.uids()?.len()];
        let mut not_looked_at: HashSet<usize> = HashSet::new();
        for file in files {
            let mut first = 0;
            let pick = Pick { columns: Some(&["uid", COLUMN]), ..Pick::default() };
            let batches = File::open(&Blob::open(file)?)?.batches(&pick).map_err(|e| e.hint(HINT));
            for batch in batches? {
                let batch = batch?;
                let column = |name: &str| {
                    batch.column_by_name(name).ok_or_else(|| {
                        Error::input(format!("no column `{name}`")).at(file).hint(HINT)
                    })
                };
                let uids = cast(column("uid")?, &DataType::Utf8)
                    .input("column `uid` is no text")
                    .map_err(|e| e.at(file))?;
                let numbers = DataType::List(Field::new("item", DataType::Float64, true).into());
                let lists = DataType::List(Field::new("item", numbers, true).into());
                let lists = cast(column(COLUMN)?, &lists)
                    .input(format!("column `{COLUMN}` holds no lists of boxes"))
                    .map_err(|e| e.at(file))?;
                for row in 0..batch.num_rows() {
                    let uid = uids.as_string::<i32>();
                    let Some(samples) = uid
                        .is_valid(row)
                        .then(|| Uid::parse(uid.value(row)))
                        .flatten()
                        .and_then(|uid| at.get(&uid))
                    else {
                        continue;
                    };
                    let faces = faces(lists.as_list::<i32>(), row).map_err(|message| {
                        Error::input(message).at(format!("{file}, row {}", first + row))
                    })?;
                    let Some(faces) = faces else {
                        not_looked_at.extend(samples);
                        continue;
                    };
                    for &sample in samples {
                        let known = boxes[sample].take().unwrap_or_default().into_vec();
                        boxes[sample] = Some(known.into_iter().chain(faces.clone()).collect());
                    }
                }
                first += batch.num_rows();
            }
        }
        not_looked_at.into_iter().for_each(|sample| boxes[sample] = None);
        Ok(Self(boxes))
    }

    /// The faces of a sample; nothing where nobody looked for any.
    pub(crate) fn of(&self, sample: usize) -> Option<&[Face]> {
        self.0.get(sample)?.as_deref()
    }
}

fn faces(lists: &GenericListArray<i32>, row: usize) -> Result<Option<Vec<Face>>, String> {
    if lists.is_null(row) {
        return Ok(None);
    }
    let rows = lists.value(row);
    let rows = rows.as_list::<i32>();
    let face = |i: usize| {
        let numbers = rows.is_valid(i).then(|| rows.value(i));
        let values = numbers.as_ref().map(AsArray::as_primitive::<Float64Type>);
        let sound = values.filter(|v| v.null_count() == 0 && is_box(v.values()));
        sound.and_then(|v| Face::try_from(&v.values()[..]).ok()).ok_or_else(|| {
            let got = values.map(|v| v.values().to_vec()).unwrap_or_default();
            let form = "`[x_min, y_min, x_max, y_max]` in shares of the picture's sides";
            format!("{COLUMN}[{i}] is no box {form}: {got:?}")
        })
    };
    (0..rows.len()).map(face).collect::<Result<Vec<Face>, String>>().map(Some)
}
