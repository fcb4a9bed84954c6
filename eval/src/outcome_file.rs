//! Outcomes as parquet: one row a unit, columns by the kind of task.

use std::io::Write;
use std::sync::Arc;

use arrow_array::builder::{ListBuilder, UInt32Builder};
use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Float64Type, Int64Type, UInt32Type};
use arrow_array::{
    Array, ArrayRef, Float32Array, Float64Array, Int64Array, RecordBatch, StringArray, UInt32Array,
};
use arrow_schema::{DataType, Field, Schema};
use stage::{Error, Result, ResultExt};
use store::Blob;
use store::parquet::{Layout, read_parquet, write_parquet};

use crate::associations::Associated;
use crate::attributes::Answered;
use crate::average_precision::Labelled;
use crate::classification::Classified;
use crate::outcome::{Answers, Outcome, Shape};
use crate::retrieval::Retrieved;
use crate::suite::TaskKind;

/// Most rows that are read: no test set has as many.
const MOST_ROWS: u64 = 10_000_000;

impl Outcome {
    /// Writes one row a unit: `key`, `metadata.N`, and
    ///
    /// | kind | columns |
    /// | --- | --- |
    /// | classification | `label`, `predicted`, `rank` (place of the right class, from 0) |
    /// | multilabel | `score.N` (cosine), `target.N` |
    /// | retrieval | `rank` (place of the best caption, null beyond the largest k), `captions` (the same for each of its captions) |
    /// | associations | `jaccard`, `candidates` |
    /// | attributes | `predicted.OBJECTIVE` |
    ///
    /// # Errors
    /// When writing fails.
    pub fn write(&self, out: impl Write + Send) -> Result<()> {
        let mut columns: Vec<(String, ArrayRef)> =
            vec![("key".into(), Arc::new(StringArray::from_iter_values(&self.keys)))];
        let fields = self.metadata.iter().map(Vec::len).max().unwrap_or(0);
        for field in 0..fields {
            let values = self.metadata.iter().map(|m| m.get(field).copied());
            columns.push((format!("metadata.{field}"), Arc::new(values.collect::<Int64Array>())));
        }
        let numbers = |values: &[u32]| -> ArrayRef { Arc::new(UInt32Array::from(values.to_vec())) };
        match &self.answers {
            Answers::Classified(found) => {
                columns.push(("label".into(), numbers(&found.labels)));
                columns.push(("predicted".into(), numbers(&found.predicted)));
                columns.push(("rank".into(), numbers(&found.ranks)));
            }
            Answers::Labelled(found) => {
                let strided =
                    |class: usize| (0..found.len()).map(move |i| i * found.classes + class);
                for class in 0..found.classes {
                    let scores: Float32Array =
                        strided(class).map(|i| Some(found.scores[i])).collect();
                    columns.push((format!("score.{class}"), Arc::new(scores)));
                }
                for class in 0..found.classes {
                    let has: UInt32Array =
                        strided(class).map(|i| Some(u32::from(found.targets[i]))).collect();
                    columns.push((format!("target.{class}"), Arc::new(has)));
                }
            }
            Answers::Retrieved(found) => {
                columns.push(("rank".into(), Arc::new(UInt32Array::from(found.images.clone()))));
                columns.push(("captions".into(), captions(found)));
            }
            Answers::Associated(found) => {
                let jaccard = Float64Array::from(found.jaccard.clone());
                columns.push(("jaccard".into(), Arc::new(jaccard)));
                columns.push(("candidates".into(), numbers(&found.candidates)));
            }
            Answers::Answered(found) => {
                for (objective, predicted) in found.objectives.iter().zip(&found.predicted) {
                    columns.push((format!("predicted.{objective}"), numbers(predicted)));
                }
            }
        }
        let fields: Vec<Field> = columns
            .iter()
            .map(|(name, column)| Field::new(name, column.data_type().clone(), true))
            .collect();
        let schema = Arc::new(Schema::new(fields));
        let arrays = columns.into_iter().map(|(_, column)| column).collect();
        let batch = RecordBatch::try_new(Arc::clone(&schema), arrays).internal("outcome")?;
        write_parquet(out, &schema, [Ok(batch)], &Layout::default()).map(drop)
    }

    /// Reads what [`Outcome::write`] wrote for a task of this shape.
    ///
    /// # Errors
    /// A file of another kind.
    pub fn read(blob: &Blob, shape: &Shape) -> Result<Self> {
        let file = store::parquet::File::open(blob)?;
        if file.rows() > MOST_ROWS {
            return Err(Error::input("too many rows for a test set").at(blob.name()));
        }
        let mut outcome = Self { answers: empty(shape), ..Self::default() };
        for batch in read_parquet(blob)? {
            outcome.append(&batch?).map_err(|e| e.at(blob.name()))?;
        }
        outcome.check(shape).map_err(|e| e.at(blob.name()))?;
        Ok(outcome)
    }

    fn append(&mut self, batch: &RecordBatch) -> Result<()> {
        let start = self.keys.len();
        let keys = column(batch, "key")?.as_string_opt::<i32>().ok_or_else(wrong)?;
        self.keys.extend(keys.iter().map(|key| key.unwrap_or_default().to_owned()));
        for field in 0.. {
            let Some(values) = batch.column_by_name(&format!("metadata.{field}")) else { break };
            let values = values.as_primitive_opt::<Int64Type>().ok_or_else(wrong)?;
            if field == 0 {
                self.metadata.resize(start, Vec::new());
                self.metadata.extend((0..values.len()).map(|_| Vec::new()));
            }
            for (row, value) in self.metadata[start..].iter_mut().zip(values) {
                row.push(value.unwrap_or_default());
            }
        }
        match &mut self.answers {
            Answers::Classified(found) => {
                found.labels.extend(numbers(batch, "label")?);
                found.predicted.extend(numbers(batch, "predicted")?);
                found.ranks.extend(numbers(batch, "rank")?);
            }
            Answers::Labelled(found) => labelled(batch, found)?,
            Answers::Retrieved(found) => {
                found.images.extend(
                    column(batch, "rank")?.as_primitive_opt::<UInt32Type>().ok_or_else(wrong)?,
                );
                let lists = column(batch, "captions")?.as_list_opt::<i32>().ok_or_else(wrong)?;
                for (row, list) in lists.iter().enumerate() {
                    let Some(list) = list else { continue };
                    let places = list.as_primitive_opt::<UInt32Type>().ok_or_else(wrong)?;
                    found.texts.extend(places);
                    found.owners.resize(found.texts.len(), (start + row) as u32);
                }
            }
            Answers::Associated(found) => {
                let jaccard = column(batch, "jaccard")?;
                let jaccard = jaccard.as_primitive_opt::<Float64Type>().ok_or_else(wrong)?;
                found.jaccard.extend(jaccard.iter().map(Option::unwrap_or_default));
                found.candidates.extend(numbers(batch, "candidates")?);
            }
            Answers::Answered(found) => {
                for (objective, predicted) in found.objectives.iter().zip(&mut found.predicted) {
                    predicted.extend(numbers(batch, &format!("predicted.{objective}"))?);
                }
            }
        }
        Ok(())
    }

    /// What the metrics take for granted.
    fn check(&self, shape: &Shape) -> Result<()> {
        let classes = shape.classes.len();
        let whole = match &self.answers {
            Answers::Classified(found) => {
                let known = |c: &u32| (*c as usize) < classes;
                found.labels.iter().all(known) && found.predicted.iter().all(known)
            }
            Answers::Labelled(found) => found.classes == classes && found.len() == self.len(),
            Answers::Retrieved(_) | Answers::Associated(_) | Answers::Answered(_) => true,
        };
        let grouped = shape.rules.groups.is_empty() && shape.rules.attributes.is_empty();
        if whole && (grouped || self.metadata.len() == self.len()) { Ok(()) } else { Err(wrong()) }
    }
}

fn empty(shape: &Shape) -> Answers {
    match shape.kind {
        TaskKind::Classification => Answers::Classified(Classified::default()),
        TaskKind::Multilabel => {
            Answers::Labelled(Labelled { classes: shape.classes.len(), ..Labelled::default() })
        }
        TaskKind::Retrieval => Answers::Retrieved(Retrieved::default()),
        TaskKind::Associations => Answers::Associated(Associated::default()),
        TaskKind::Attributes => {
            let mut objectives: Vec<String> = Vec::new();
            for rule in &shape.rules.attributes {
                if !objectives.contains(&rule.objective) {
                    objectives.push(rule.objective.clone());
                }
            }
            let predicted = vec![Vec::new(); objectives.len()];
            Answers::Answered(Answered { objectives, predicted })
        }
    }
}

fn captions(found: &Retrieved) -> ArrayRef {
    let mut of_each: Vec<Vec<Option<u32>>> = vec![Vec::new(); found.images.len()];
    for (owner, place) in found.owners.iter().zip(&found.texts) {
        of_each[*owner as usize].push(*place);
    }
    let mut lists = ListBuilder::new(UInt32Builder::new());
    for places in of_each {
        lists.append_value(places);
    }
    Arc::new(lists.finish())
}

fn labelled(batch: &RecordBatch, found: &mut Labelled) -> Result<()> {
    let mut scores = Vec::new();
    let mut targets = Vec::new();
    for class in 0..found.classes {
        let column = column(batch, &format!("score.{class}"))?;
        scores.push(column.as_primitive_opt::<Float32Type>().ok_or_else(wrong)?);
        targets.push(numbers(batch, &format!("target.{class}"))?);
    }
    for row in 0..batch.num_rows() {
        found.scores.extend(scores.iter().map(|column| column.value(row)));
        found.targets.extend(targets.iter().map(|column| u8::from(column[row] > 0)));
    }
    Ok(())
}

fn column<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef> {
    batch.column_by_name(name).ok_or_else(|| Error::input(format!("no column `{name}`")))
}

fn numbers(batch: &RecordBatch, name: &str) -> Result<Vec<u32>> {
    let column = column(batch, name)?;
    let values = match column.data_type() {
        DataType::UInt32 => column.as_primitive::<UInt32Type>(),
        _ => return Err(wrong()),
    };
    Ok(values.iter().map(Option::unwrap_or_default).collect())
}

fn wrong() -> Error {
    Error::input("not the outcome of such a task")
        .hint("evaluate again: the file is of another version or another task")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(outcome: &Outcome, shape: &Shape) -> Outcome {
        let mut bytes = Vec::new();
        outcome.write(&mut bytes).unwrap();
        Outcome::read(&Blob::from_bytes("o.parquet", bytes.into()), shape).unwrap()
    }

    #[test]
    fn every_kind_of_outcome_reads_back_as_it_was() {
        let keys: Vec<String> = vec!["a".into(), "b".into()];
        let classes = vec!["cat".to_owned(), "dog".to_owned()];
        let of = |answers| Outcome { keys: keys.clone(), metadata: Vec::new(), answers };
        let classified =
            Classified { labels: vec![1, 0], predicted: vec![1, 1], ranks: vec![0, 1] };
        let labelled =
            Labelled { classes: 2, scores: vec![0.1, 0.2, 0.3, 0.4], targets: vec![1, 0, 1, 1] };
        let retrieved = Retrieved {
            images: vec![Some(0), None],
            owners: vec![0, 0, 1],
            texts: vec![Some(3), None, Some(0)],
        };
        let associated = Associated { jaccard: vec![0.5, 1.0], candidates: vec![5, 12] };
        for (kind, answers) in [
            (TaskKind::Classification, Answers::Classified(classified)),
            (TaskKind::Multilabel, Answers::Labelled(labelled)),
            (TaskKind::Retrieval, Answers::Retrieved(retrieved)),
            (TaskKind::Associations, Answers::Associated(associated)),
        ] {
            let shape = Shape { kind, classes: classes.clone(), ..Shape::default() };
            let outcome = of(answers);
            assert_eq!(round_trip(&outcome, &shape), outcome);
        }
    }

    #[test]
    fn metadata_and_several_answers_read_back() {
        let suite = crate::suite::Suite::open("datacomp").unwrap();
        let task = suite.tasks.iter().find(|t| t.key == "fairness/fairface").unwrap();
        let shape =
            Shape { kind: TaskKind::Attributes, rules: task.rules.clone(), ..Shape::default() };
        let answered = Answered {
            objectives: ["race", "gender", "age", "toxic"].map(str::to_owned).into(),
            predicted: vec![vec![1, 2]; 4],
        };
        let outcome = Outcome {
            keys: vec!["a".into(), "b".into()],
            metadata: vec![vec![1, 2, 3, 0], vec![4, 5, 6, 1]],
            answers: Answers::Answered(answered),
        };
        assert_eq!(round_trip(&outcome, &shape), outcome);
    }

    #[test]
    fn an_outcome_with_a_class_that_does_not_exist_is_refused() {
        let found = Classified { labels: vec![2], predicted: vec![0], ranks: vec![0] };
        let outcome = Outcome {
            keys: vec!["a".into()],
            metadata: Vec::new(),
            answers: Answers::Classified(found),
        };
        let mut bytes = Vec::new();
        outcome.write(&mut bytes).unwrap();
        let shape = Shape { classes: vec!["cat".into(), "dog".into()], ..Shape::default() };
        let blob = Blob::from_bytes("o.parquet", bytes.into());
        assert_eq!(Outcome::read(&blob, &shape).unwrap_err().kind(), stage::Kind::Input);
    }
}
