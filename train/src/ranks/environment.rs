//! Which rank this process is, from the variables of whatever started it.
//!
//! | | torchrun | Slurm's srun |
//! | --- | --- | --- |
//! | rank | `RANK` | `SLURM_PROCID` |
//! | ranks | `WORLD_SIZE` | `SLURM_STEP_NUM_TASKS` |
//! | rank on its machine | `LOCAL_RANK` | `SLURM_LOCALID` |
//! | rank 0's machine | `MASTER_ADDR` | `MASTER_ADDR`, or the first of `SLURM_STEP_NODELIST` |
//! | its port | `MASTER_PORT` | `MASTER_PORT`, or 20000 + job number mod 20000 |
//!
//! torchrun's own store may sit on `MASTER_PORT`; it says so in `TORCHELASTIC_USE_AGENT_STORE`, and
//! then ranks meet one port above.

use stage::{Error, Result};

/// A rank among several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seat {
    /// This rank, from 0.
    pub rank: usize,
    /// How many there are, at least 2.
    pub size: usize,
    /// This rank among those of its machine.
    pub local_rank: usize,
    /// Rank 0's machine.
    pub address: String,
    /// Where rank 0 listens.
    pub port: u16,
    /// The name of the job, so that two jobs on one machine do not mix.
    pub job: String,
}

/// Ranks that one training may have: bounds what a wrong variable can ask for.
const MOST: usize = 65_536;

impl Seat {
    /// The seat of this process; `None` where it trains alone.
    ///
    /// # Errors
    /// [`stage::Kind::Recipe`] for a variable that is missing or no number.
    pub fn from_process() -> Result<Option<Self>> {
        Self::from_variables(&|name| std::env::var(name).ok())
    }

    /// The same from any set of variables.
    ///
    /// # Errors
    /// As [`Seat::from_process`].
    pub fn from_variables(variable: &dyn Fn(&str) -> Option<String>) -> Result<Option<Self>> {
        let number = |name: &str| -> Result<usize> {
            let text = variable(name).ok_or_else(|| missing(name))?;
            text.trim().parse().map_err(|_| {
                Error::recipe(format!("{name} is `{text}`, no number"))
                    .hint("torchrun and srun set it; unset it to train in one process")
            })
        };
        if variable("WORLD_SIZE").is_some() {
            let local = if variable("LOCAL_RANK").is_some() { number("LOCAL_RANK")? } else { 0 };
            let own_store = variable("TORCHELASTIC_USE_AGENT_STORE").as_deref() == Some("True");
            let port = number("MASTER_PORT").map(|port| port + usize::from(own_store));
            let address = variable("MASTER_ADDR").ok_or_else(|| missing("MASTER_ADDR"));
            let job = variable("TORCHELASTIC_RUN_ID").unwrap_or_default();
            let (rank, size) = (number("RANK")?, number("WORLD_SIZE")?);
            return Self::checked(rank, size, local, address, port, job);
        }
        if variable("SLURM_STEP_NUM_TASKS").is_some() {
            let job = variable("SLURM_JOB_ID").unwrap_or_default();
            let port = match variable("MASTER_PORT") {
                Some(_) => number("MASTER_PORT"),
                None => Ok(20_000 + job.parse::<usize>().unwrap_or(0) % 20_000),
            };
            let nodes = variable("SLURM_STEP_NODELIST").or_else(|| variable("SLURM_JOB_NODELIST"));
            let address = variable("MASTER_ADDR")
                .or_else(|| nodes.as_deref().map(first_host))
                .ok_or_else(|| missing("MASTER_ADDR"));
            let step = variable("SLURM_STEP_ID").unwrap_or_default();
            let (rank, size) = (number("SLURM_PROCID")?, number("SLURM_STEP_NUM_TASKS")?);
            let local = number("SLURM_LOCALID").unwrap_or(0);
            return Self::checked(rank, size, local, address, port, format!("{job}.{step}"));
        }
        Ok(None)
    }

    fn checked(
        rank: usize,
        size: usize,
        local_rank: usize,
        address: Result<String>,
        port: Result<usize>,
        job: String,
    ) -> Result<Option<Self>> {
        if size <= 1 {
            return Ok(None);
        }
        if rank >= size || size > MOST {
            return Err(Error::recipe(format!("this is rank {rank} of {size}"))
                .hint(format!("ranks count from 0, and there are at most {MOST}")));
        }
        let port = port?;
        let port = u16::try_from(port)
            .ok()
            .filter(|port| *port > 0)
            .ok_or_else(|| Error::recipe(format!("MASTER_PORT is {port}, a port is 1..=65535")))?;
        Ok(Some(Self { rank, size, local_rank, address: address?, port, job }))
    }
}

fn missing(name: &str) -> Error {
    Error::recipe(format!("{name} is not set, beside variables of several ranks"))
        .hint("start the ranks with torchrun or srun, or set RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT")
}

/// The first host of Slurm's list: `node[03-07,9],login` begins with `node03`.
fn first_host(list: &str) -> String {
    let Some((prefix, rest)) = list.split_once('[') else {
        return list.split(',').next().unwrap_or(list).to_owned();
    };
    if let Some((whole, _)) = prefix.split_once(',') {
        return whole.to_owned();
    }
    let number: String = rest.chars().take_while(char::is_ascii_digit).collect();
    let suffix = rest.split_once(']').map_or("", |(_, after)| after);
    format!("{prefix}{number}{}", suffix.split(',').next().unwrap_or(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seat(variables: &[(&str, &str)]) -> Result<Option<Seat>> {
        Seat::from_variables(&|name| {
            variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned())
        })
    }

    const TORCHRUN: [(&str, &str); 5] = [
        ("RANK", "3"),
        ("WORLD_SIZE", "8"),
        ("LOCAL_RANK", "1"),
        ("MASTER_ADDR", "10.0.0.1"),
        ("MASTER_PORT", "29500"),
    ];

    #[test]
    fn torchruns_variables_make_a_seat() {
        let seat = seat(&TORCHRUN).unwrap().unwrap();
        assert_eq!((seat.rank, seat.size, seat.local_rank), (3, 8, 1));
        assert_eq!((seat.address.as_str(), seat.port), ("10.0.0.1", 29_500));
    }

    #[test]
    fn ranks_meet_one_port_above_torchruns_own_store() {
        let mut variables = TORCHRUN.to_vec();
        variables.push(("TORCHELASTIC_USE_AGENT_STORE", "True"));
        assert_eq!(seat(&variables).unwrap().unwrap().port, 29_501);
    }

    #[test]
    fn sruns_variables_make_a_seat() {
        let seat = seat(&[
            ("SLURM_PROCID", "2"),
            ("SLURM_STEP_NUM_TASKS", "4"),
            ("SLURM_LOCALID", "0"),
            ("SLURM_JOB_ID", "1234567"),
            ("SLURM_STEP_ID", "0"),
            ("SLURM_STEP_NODELIST", "gpu[03-04]"),
        ]);
        let seat = seat.unwrap().unwrap();
        assert_eq!((seat.rank, seat.size), (2, 4));
        assert_eq!((seat.address.as_str(), seat.port), ("gpu03", 34_567));
        assert_eq!(seat.job, "1234567.0");
    }

    #[test]
    fn the_first_host_of_every_form_of_slurms_list() {
        for (list, first) in [
            ("node1", "node1"),
            ("node1,node2", "node1"),
            ("node[003-007,9]", "node003"),
            ("login,node[1-2]", "login"),
            ("rack[1-2]-a,x", "rack1-a"),
        ] {
            assert_eq!(first_host(list), first);
        }
    }

    #[test]
    fn one_process_and_a_world_of_one_train_alone() {
        assert_eq!(seat(&[]).unwrap(), None);
        assert_eq!(seat(&[("WORLD_SIZE", "1"), ("RANK", "0")]).unwrap(), None);
        assert_eq!(seat(&[("SLURM_PROCID", "0"), ("SLURM_STEP_NUM_TASKS", "1")]).unwrap(), None);
    }

    #[test]
    fn what_is_missing_or_no_number_is_named() {
        let told = |variables: &[(&str, &str)]| seat(variables).unwrap_err().to_string();
        assert!(told(&[("WORLD_SIZE", "2")]).starts_with("RANK is not set"));
        assert_eq!(told(&[("WORLD_SIZE", "two"), ("RANK", "0")]), "WORLD_SIZE is `two`, no number");
        assert!(
            told(&[("WORLD_SIZE", "2"), ("RANK", "0"), ("MASTER_PORT", "1")])
                .starts_with("MASTER_ADDR")
        );
        assert_eq!(told(&[("WORLD_SIZE", "2"), ("RANK", "2")]), "this is rank 2 of 2");
    }
}
