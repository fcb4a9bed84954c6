//! The share of the units that a cluster engine assigned to this process.

use stage::{Error, Result};

use crate::run::Share;

/// The variables of one engine.
struct Engine {
    name: &'static str,
    index: &'static str,
    count: &'static str,
    /// Where counting begins, and in what steps, where the engine says it.
    first: Option<&'static str>,
    step: Option<&'static str>,
}

const ENGINES: [Engine; 2] = [
    // `--array=1-16` counts from 1, `--array=0-30:2` in steps.
    Engine {
        name: "Slurm",
        index: "SLURM_ARRAY_TASK_ID",
        count: "SLURM_ARRAY_TASK_COUNT",
        first: Some("SLURM_ARRAY_TASK_MIN"),
        step: Some("SLURM_ARRAY_TASK_STEP"),
    },
    // An Indexed Job says which pod this is, and not of how many.
    Engine {
        name: "Kubernetes",
        index: "JOB_COMPLETION_INDEX",
        count: "CLIPMILL_UNITS_OF",
        first: None,
        step: None,
    },
];

/// The share in these variables; none where no engine set one.
///
/// # Errors
/// An index without a count: every task of the array would take the whole run.
pub(crate) fn of_engine(variable: &dyn Fn(&str) -> Option<String>) -> Result<Option<Share>> {
    for engine in &ENGINES {
        let Some(index) = variable(engine.index) else { continue };
        let Some(count) = variable(engine.count) else {
            return Err(Error::recipe(format!(
                "{} says that this is task {index} ({}), and nothing says of how many",
                engine.name, engine.index
            ))
            .hint(format!(
                "set {} to the number of tasks (of a Kubernetes Indexed Job: its `completions`), \
                 or give `--units {index}/N`; `--units 0/1` is the whole run",
                engine.count
            )));
        };
        let number = |name: Option<&str>, default: u64| {
            name.and_then(variable).and_then(|text| text.parse().ok()).unwrap_or(default)
        };
        let (first, step) = (number(engine.first, 0), number(engine.step, 1).max(1));
        let counted = index.parse::<u64>().ok().and_then(|i| i.checked_sub(first));
        let index = counted.map_or(index, |i| (i / step).to_string());
        let share = format!("{index}/{count}").parse::<Share>();
        let place = format!("{} of {}", engine.index, engine.count);
        return share.map(Some).map_err(|error| {
            Error::recipe(error).at(place).hint(
                "an array with gaps is no share of anything: give `--units I/N`; \
                 `--units 0/1` is the whole run",
            )
        });
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Result<Option<Share>> {
        of_engine(&|name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    fn share(index: u32, of: u32) -> Share {
        Share { index, of }
    }

    #[test]
    fn a_slurm_array_may_count_from_one_or_in_steps() {
        let id = "SLURM_ARRAY_TASK_ID";
        let count = ("SLURM_ARRAY_TASK_COUNT", "16");
        assert_eq!(of(&[(id, "3"), count]).unwrap(), Some(share(3, 16)));
        assert_eq!(
            of(&[(id, "16"), count, ("SLURM_ARRAY_TASK_MIN", "1")]).unwrap(),
            Some(share(15, 16))
        );
        let steps = [(id, "30"), count, ("SLURM_ARRAY_TASK_STEP", "2")];
        assert_eq!(of(&steps).unwrap(), Some(share(15, 16)));
        assert_eq!(of(&[]).unwrap(), None);
        let gaps = [(id, "7"), ("SLURM_ARRAY_TASK_COUNT", "3"), ("SLURM_ARRAY_TASK_MIN", "1")];
        assert!(of(&gaps).unwrap_err().hint_text().unwrap().contains("`--units I/N`"));
    }

    #[test]
    fn an_indexed_job_needs_to_be_told_of_how_many() {
        let index = ("JOB_COMPLETION_INDEX", "2");
        assert_eq!(of(&[index, ("CLIPMILL_UNITS_OF", "5")]).unwrap(), Some(share(2, 5)));
        let error = of(&[index]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "Kubernetes says that this is task 2 (JOB_COMPLETION_INDEX), and nothing says of how many"
        );
        let hint = error.hint_text().unwrap();
        assert!(hint.contains("CLIPMILL_UNITS_OF") && hint.contains("`--units 2/N`"), "{hint}");
        assert!(of(&[index, ("CLIPMILL_UNITS_OF", "2")]).is_err());
    }
}
