//! Ranks of one training agree on what it takes: rank 0, which made it, says so when they meet.
//!
//! What lies finished in the output when a rank starts may be what an earlier run left and this one
//! makes again (`--redo`). A rank other than the first therefore opens nothing before it has met
//! rank 0, who comes to the meeting when all that the training takes is made; and it waits until it
//! sees the very units that rank 0 names, for a shared file system may show old ones for a while.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::Value;
use sha2::{Digest, Sha256};
use stage::{Cancel, Error, Result, ResultExt};
use train::ranks::Ranks;
use train::ranks::environment::Seat;
use train::ranks::tcp::{Patience, Tcp};

use super::Site;

/// How long another rank may see other units than rank 0 does: NFS keeps what it knows of a folder
/// for up to a minute.
const LAG: Duration = Duration::from_secs(90);
/// How often to look again.
const PAUSE: Duration = Duration::from_millis(200);
/// For who waits as long as rank 0 needs for what comes before.
const LONG: Duration = Duration::from_hours(24 * 365);

/// Meets the other ranks of the stage `id`. With `waits` rank 0 may come when it likes: it has
/// other stages to make first.
pub(super) fn meet(seat: &Seat, id: &str, waits: bool, cancel: &Cancel) -> Result<Tcp> {
    let mut patience = patience()?;
    if waits {
        patience.join = LONG;
    }
    // Of two trainings of one recipe, ranks meet for the same.
    let seat = Seat { job: format!("{}/{id}", seat.job), ..seat.clone() };
    Tcp::meet(&seat, patience, cancel)
}

/// As rank 0: says what the training takes.
pub(super) fn say(ranks: &mut dyn Ranks, site: &Site) -> Result<()> {
    let units = serde_json::to_vec(&units(site)).internal("units of inputs")?;
    ranks.gather(&units).map(drop)
}

/// As another rank: hears what the training takes, and looks until it sees that.
pub(super) fn see(
    ranks: &mut dyn Ranks,
    look: &dyn Fn() -> Result<Site>,
    cancel: &Cancel,
) -> Result<Site> {
    let first = ranks.gather(b"")?.swap_remove(0);
    let first: BTreeMap<String, String> =
        serde_json::from_slice(&first).internal("units of rank 0")?;
    let until = Instant::now() + LAG;
    loop {
        cancel.check()?;
        let site = look()?;
        let here = units(&site);
        let other = first.keys().chain(here.keys()).find(|id| first.get(*id) != here.get(*id));
        let Some(other) = other else { return Ok(site) };
        if Instant::now() > until {
            return Err(Error::conflict(format!(
                "this rank sees other units of `{other}` than rank 0 made"
            ))
            .hint("let all ranks see one output: the same folder, on a shared file system"));
        }
        std::thread::sleep(PAUSE);
    }
}

/// Every stage that the training takes, with a digest of its commit records' nonces: the same work
/// done again has others.
fn units(site: &Site) -> BTreeMap<String, String> {
    let all = site.inputs.iter().chain(site.references.values());
    let digest = |commits: &[store::Commit]| {
        let nonces: Vec<Value> =
            commits.iter().map(|c| Value::from(vec![c.unit.as_str(), c.nonce.as_str()])).collect();
        format!("{:x}", Sha256::digest(Value::from(nonces).to_string()))
    };
    all.map(|done| (done.id.clone(), digest(&done.commits))).collect()
}

/// How long ranks wait for each other, in seconds: `CLIPMILL_RANKS_JOIN` and
/// `CLIPMILL_RANKS_SILENCE`.
fn patience() -> Result<Patience> {
    let seconds = |name: &str, default: Duration| match std::env::var(name) {
        Err(_) => Ok(default),
        Ok(text) => match text.parse() {
            Ok(seconds @ 1..=86_400) => Ok(Duration::from_secs(seconds)),
            _ => Err(Error::recipe(format!("{name} is `{text}`, expected 1..=86400 seconds"))),
        },
    };
    let default = Patience::default();
    Ok(Patience {
        join: seconds("CLIPMILL_RANKS_JOIN", default.join)?,
        silence: seconds("CLIPMILL_RANKS_SILENCE", default.silence)?,
    })
}
