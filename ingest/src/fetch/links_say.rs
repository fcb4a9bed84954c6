//! What links say about their pictures: faces to blur, and the digest that is expected.

use arrow_array::cast::AsArray;
use arrow_array::types::Float64Type;
use arrow_array::{Array, ArrayRef, GenericListArray, StringArray};
use arrow_cast::cast;
use arrow_schema::{DataType, Field};
use stage::{Error, Links, Result, ResultExt};

use super::picture::Wanted;
use super::{FetchPlan, Reason};
use pixels::blur::{Face, is_box};

/// The columns of a batch that the plan reads.
pub(super) struct LinksSay {
    boxes: Option<Boxes>,
    digests: Option<StringArray>,
}

/// Faces as lists, or as JSON text from formats that have no lists.
enum Boxes {
    Lists(GenericListArray<i32>),
    Text(StringArray),
}

impl LinksSay {
    /// # Errors
    /// A missing column, or one of a type that can hold no boxes or digests.
    pub(super) fn open(links: &Links, plan: &FetchPlan) -> Result<Self> {
        let boxes = plan.bbox_col.as_ref().map(|name| {
            let array = column(links, "bbox_col", name)?;
            match array.data_type() {
                DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
                    return Ok(Boxes::Text(text(array, name)?));
                }
                DataType::List(_) | DataType::LargeList(_) => {}
                other => {
                    return Err(Error::recipe(format!(
                        "bbox_col: column `{name}` is {other}, expected lists of boxes or text"
                    )));
                }
            }
            let numbers = DataType::List(Field::new("item", DataType::Float64, true).into());
            let lists = DataType::List(Field::new("item", numbers, true).into());
            let lists = cast(array, &lists).input(format!("bbox_col: column `{name}`"))?;
            Ok(Boxes::Lists(lists.as_list::<i32>().clone()))
        });
        let digests = plan
            .verify_hash
            .as_ref()
            .map(|(name, _)| text(column(links, "verify_hash", name)?, name));
        Ok(Self { boxes: boxes.transpose()?, digests: digests.transpose()? })
    }

    /// What row `row` says.
    ///
    /// # Errors
    /// The reason for which the link is not fetched: boxes that are none, or no digest where the
    /// plan wants every picture verified.
    pub(super) fn of(&self, row: usize) -> Result<Wanted, Reason> {
        let faces = match &self.boxes {
            Some(boxes) => boxes.of(row).ok_or(Reason::BadBoxes)?,
            None => Vec::new(),
        };
        let digest = match &self.digests {
            Some(digests) if digests.is_null(row) => return Err(Reason::HashMismatch),
            Some(digests) => Some(digests.value(row).trim().to_ascii_lowercase()),
            None => None,
        };
        Ok(Wanted { faces, digest })
    }
}

impl Boxes {
    /// The faces of a row, `None` where they cannot be understood; null is no face.
    fn of(&self, row: usize) -> Option<Vec<Face>> {
        let lists: Vec<Vec<f64>> = match self {
            Self::Lists(lists) if lists.is_null(row) => Vec::new(),
            Self::Lists(lists) => {
                let faces = lists.value(row);
                let faces = faces.as_list::<i32>();
                let numbers = |i| {
                    let face: ArrayRef = faces.value(i);
                    let face = face.as_primitive::<Float64Type>();
                    (faces.is_valid(i) && face.null_count() == 0).then(|| face.values().to_vec())
                };
                (0..faces.len()).map(numbers).collect::<Option<_>>()?
            }
            Self::Text(text) if text.is_null(row) || text.value(row).trim().is_empty() => {
                Vec::new()
            }
            Self::Text(text) => serde_json::from_str(text.value(row)).ok()?,
        };
        lists
            .into_iter()
            .map(|face| Face::try_from(face).ok().filter(|face| is_box(face)))
            .collect()
    }
}

/// The column that this field of the plan names.
pub(super) fn column<'a>(links: &'a Links, field: &str, name: &str) -> Result<&'a dyn Array> {
    links.batch().column_by_name(name).map(AsRef::as_ref).ok_or_else(|| {
        Error::recipe(format!("{field}: the links have no column `{name}`"))
            .hint("a list of links carries further columns where `link_list` names them: `columns`")
    })
}

fn text(array: &dyn Array, name: &str) -> Result<StringArray> {
    let text = cast(array, &DataType::Utf8).input(format!("column `{name}` is no text"))?;
    Ok(text.as_string::<i32>().clone())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::RecordBatch;
    use arrow_array::builder::{Float32Builder, ListBuilder};

    use super::*;

    fn say(column: ArrayRef, plan: &FetchPlan) -> Result<LinksSay> {
        let empty: ArrayRef = Arc::new(StringArray::from(vec![""; column.len()]));
        let batch = RecordBatch::try_from_iter([
            ("uid", Arc::clone(&empty)),
            ("url", Arc::clone(&empty)),
            ("alt", empty),
            ("said", column),
        ]);
        LinksSay::open(&Links::try_new(batch.unwrap()).unwrap(), plan)
    }

    fn boxes() -> FetchPlan {
        FetchPlan { bbox_col: Some("said".to_owned()), ..FetchPlan::default() }
    }

    #[test]
    fn boxes_come_as_lists_of_any_float_or_as_json() {
        let mut lists = ListBuilder::new(ListBuilder::new(Float32Builder::new()));
        lists.values().append_value([0.0, 0.25, 0.5, 1.0].map(Some));
        lists.append(true);
        lists.append(true); // no face
        lists.append(false); // null
        lists.values().append_value([0.0, 0.25, 0.5].map(Some));
        lists.append(true);
        let said = say(Arc::new(lists.finish()), &boxes()).unwrap();
        let faces = |said: &LinksSay, row| said.of(row).map(|wanted| wanted.faces);
        assert_eq!(faces(&said, 0), Ok(vec![[0.0, 0.25, 0.5, 1.0]]));
        assert_eq!((faces(&said, 1), faces(&said, 2)), (Ok(vec![]), Ok(vec![])));
        assert_eq!(faces(&said, 3), Err(Reason::BadBoxes));
        let text = ["[[0, 0.25, 0.5, 1]]", "[]", "", "[[0.5, 0, 0.1, 1]]", "[1, 2]", "no face"];
        let said = say(Arc::new(StringArray::from(text.to_vec())), &boxes()).unwrap();
        assert_eq!(faces(&said, 0), Ok(vec![[0.0, 0.25, 0.5, 1.0]]));
        assert_eq!((faces(&said, 1), faces(&said, 2)), (Ok(vec![]), Ok(vec![])));
        for (row, text) in text.iter().enumerate().skip(3) {
            assert_eq!(faces(&said, row), Err(Reason::BadBoxes), "{text}");
        }
    }

    #[test]
    fn a_link_without_the_digest_that_is_to_be_verified_is_not_fetched() {
        let plan = FetchPlan {
            verify_hash: Some(("said".to_owned(), super::super::Digest::Md5)),
            ..FetchPlan::default()
        };
        let said = say(Arc::new(StringArray::from(vec![Some(" ABCD "), None])), &plan).unwrap();
        assert_eq!(said.of(0).unwrap().digest.as_deref(), Some("abcd"));
        assert_eq!(said.of(1), Err(Reason::HashMismatch));
    }

    #[test]
    fn a_missing_column_and_one_of_another_type_are_errors() {
        let text: ArrayRef = Arc::new(StringArray::from(vec![""]));
        let plan = FetchPlan { bbox_col: Some("faces".to_owned()), ..FetchPlan::default() };
        let message = say(text, &plan).err().unwrap().to_string();
        assert!(message.starts_with("bbox_col: the links have no column `faces`"), "{message}");
        let numbers: ArrayRef = Arc::new(arrow_array::BooleanArray::from(vec![true]));
        assert!(say(numbers, &boxes()).is_err());
    }
}
