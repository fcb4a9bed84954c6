//! Ranks on loopback: two train as one with the double batch, and one that is gone stops the other.

#[path = "common/shapes.rs"]
mod shapes;

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use candle_core::{DType, Device, Tensor};
use models::{Clip, ClipConfig};
use shapes::Shapes;
use stage::{Cancel, Change, Context, Kind};
use train::adamw::Constants;
use train::decay::Rule;
use train::joint::Division;
use train::ranks::environment::Seat;
use train::ranks::tcp::{Patience, Tcp};
use train::ranks::{Ranks, gather_floats};
use train::schedule::{Cooldown, Schedule, Shape};
use train::trainer::{Batch, Choices, Step, Trainer};
use train::{Job, TrainPlan};

const PATIENCE: Patience =
    Patience { join: Duration::from_secs(20), silence: Duration::from_secs(2) };

/// Ports that were given to a training: of tests side by side, no two have the same.
static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// Seats of a training of its own.
fn seats(size: usize) -> Vec<Seat> {
    let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let fresh = |port: &u16| GIVEN.lock().unwrap().insert(*port);
    let port = std::iter::repeat_with(free).find(fresh).unwrap();
    let seat = |rank| Seat {
        rank,
        size,
        local_rank: rank,
        address: "127.0.0.1".to_owned(),
        port,
        job: String::new(),
    };
    (0..size).map(seat).collect()
}

fn meet(seat: &Seat) -> Tcp {
    Tcp::meet(seat, PATIENCE, &Cancel::default()).unwrap()
}

/// What `work` gives on each of so many ranks.
fn on_each<T: Send>(size: usize, work: impl Fn(Tcp) -> T + Sync) -> Vec<T> {
    let (seats, work) = (seats(size), &work);
    thread::scope(|scope| {
        let ranks: Vec<_> =
            seats.iter().map(|seat| scope.spawn(move || work(meet(seat)))).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

#[test]
fn an_exchange_gives_every_rank_the_same() {
    let all = on_each(3, |mut ranks| {
        let rank = ranks.rank();
        let given = gather_floats(&mut ranks, &[rank as f32, 0.5]).unwrap();
        let mut sum = vec![rank as f32, 1.0, 1e-3];
        ranks.sum(&mut sum).unwrap();
        let mut first = [rank as f32 + 7.0];
        ranks.broadcast(&mut first).unwrap();
        let words = ranks.gather(format!("rank {rank}").as_bytes()).unwrap();
        ranks.leave(None);
        (given, sum, first, words)
    });
    for (given, sum, first, words) in all {
        assert_eq!(given, [[0.0, 0.5], [1.0, 0.5], [2.0, 0.5]]);
        assert_eq!(sum, [3.0, 3.0, 1e-3 + 1e-3 + 1e-3]);
        assert_eq!(first, [7.0]);
        assert_eq!(words, [b"rank 0", b"rank 1", b"rank 2"]);
    }
}

const ROWS: usize = 8;

fn config() -> ClipConfig {
    let json = serde_json::json!({
        "embed_dim": 16,
        "vision_cfg": {"image_size": 16, "layers": 2, "width": 32, "patch_size": 8, "head_width": 16},
        "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 2},
    });
    ClipConfig::from_json(&json).unwrap()
}

/// Where ranks train: `CLIPMILL_TEST_DEVICE` (`cuda`: each on a GPU of its own), or the CPU.
fn place(rank: usize) -> stage::Device {
    let name = std::env::var("CLIPMILL_TEST_DEVICE").unwrap_or_else(|_| "cpu".to_owned());
    name.parse::<stage::Device>().unwrap().of_rank(rank)
}

fn trainer(division: Division, changes: &[Change]) -> Trainer {
    trainer_of(0, division, changes)
}

fn trainer_of(rank: usize, division: Division, changes: &[Change]) -> Trainer {
    let device = models::device(place(rank)).unwrap();
    let clip = Clip::init(&config(), changes, 3, &device).unwrap();
    let constants = Constants { beta1: 0.9, beta2: 0.98, eps: 1e-6, wd: 0.2 };
    let cooldown = Cooldown::default();
    let schedule = Schedule { shape: Shape::Cosine, lr: 1e-3, warmup: 2, steps: 8, cooldown };
    let choices =
        Choices { division, grad_clip_norm: Some(1.0), ..Choices::plain(constants, schedule) };
    Trainer::new(clip, choices, |name, dims| Rule::Legacy.decays(name, dims)).unwrap()
}

/// Rows `first..first + rows` of the samples of a step.
fn batch(step: u64, first: usize, rows: usize) -> Batch {
    let number = |i: usize, row: usize| {
        let mixed = (step as usize * 131 + row * 977 + i * 7919) % 2048;
        mixed as f32 / 1024.0 - 1.0
    };
    let pixels: Vec<f32> = (first..first + rows)
        .flat_map(|row| (0..3 * 16 * 16).map(move |i| number(i, row)))
        .collect();
    let tokens: Vec<u32> = (first..first + rows)
        .flat_map(|row| {
            let word = move |i: u32| (row as u32 * 13 + i * 5 + step as u32) % 60 + 1;
            [62, word(0), word(1), word(2), 63, 0, 0, 0]
        })
        .collect();
    Batch {
        pixels: Tensor::from_vec(pixels, (rows, 3, 16, 16), &Device::Cpu).unwrap(),
        tokens: Tensor::from_vec(tokens, (rows, 8), &Device::Cpu).unwrap(),
        uids: Vec::new(),
    }
}

fn weights(trainer: &Trainer) -> Vec<f32> {
    let vars = trainer.clip.params().vars().values();
    vars.flat_map(|var| var.flatten_all().unwrap().to_vec1::<f32>().unwrap()).collect()
}

const STEPS: u64 = 6;

/// So many ranks over the same samples: losses and end weights of each.
fn train_on(
    size: usize,
    accum: usize,
    division: Division,
    changes: &[Change],
) -> Vec<(Vec<Step>, Vec<f32>)> {
    on_each_or_alone(size, |ranks| {
        let mut trainer = trainer_of(ranks.rank(), division, changes);
        let device = trainer.clip.device().clone();
        let rows = ROWS / (size * accum);
        let steps = (0..STEPS).map(|step| {
            let rank = ranks.rank();
            let micro = |m: usize| {
                let batch = batch(step, (m * size + rank) * rows, rows);
                Ok(Batch { pixels: batch.pixels.to_device(&device).unwrap(), ..batch })
            };
            trainer.step_among(step, accum, &micro, ranks).unwrap()
        });
        let steps = steps.collect();
        ranks.leave(None);
        (steps, weights(&trainer))
    })
}

fn on_each_or_alone<T: Send>(size: usize, work: impl Fn(&mut dyn Ranks) -> T + Sync) -> Vec<T> {
    match size {
        1 => vec![work(&mut train::ranks::Alone)],
        _ => {
            let (seats, work) = (seats(size), &work);
            thread::scope(|scope| {
                let rank = |seat: &Seat| {
                    let cx = Context { device: place(seat.rank), ..Context::default() };
                    work(&mut *train::ranks::with_gpus(meet(seat), &cx).unwrap())
                };
                let ranks: Vec<_> =
                    seats.iter().map(|seat| scope.spawn(move || rank(seat))).collect();
                ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
            })
        }
    }
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Key biases have no gradient but rounding noise, of which Adam makes steps of its own.
fn without_key_biases(trainer: &Trainer, weights: &[f32]) -> Vec<f32> {
    let mut rest = weights;
    let mut kept = Vec::new();
    for (name, var) in trainer.clip.params().vars() {
        let (own, after) = rest.split_at(var.elem_count());
        let third = own.len() / 3;
        match name.ends_with("in_proj_bias") {
            true => kept.extend(own[..third].iter().chain(&own[2 * third..])),
            false => kept.extend(own),
        }
        rest = after;
    }
    kept
}

#[test]
fn two_ranks_are_one_with_the_double_batch_in_both_divisions_of_the_loss() {
    let plain = trainer(Division::default(), &[]);
    for local_loss in [false, true] {
        let division = Division { local_loss, gather_with_grad: true };
        for (size, accum) in [(2, 1), (4, 1), (2, 2)] {
            if size > 2 && place(0) != stage::Device::Cpu {
                continue; // there are two GPUs
            }
            let [one] = &train_on(1, accum, division, &[])[..] else { panic!("one rank") };
            let several = train_on(size, accum, division, &[]);
            for (rank, (steps, end)) in several.iter().enumerate() {
                for (a, b) in one.0.iter().zip(steps) {
                    let loss = (a.loss - b.loss).abs();
                    assert!(loss < 1e-5, "loss {} and {} of rank {rank}", a.loss, b.loss);
                    assert!((a.grad_norm - b.grad_norm).abs() < 1e-5 * a.grad_norm.max(1.0));
                }
                let ours = without_key_biases(&plain, end);
                let theirs = without_key_biases(&plain, &one.1);
                let difference = largest_difference(&ours, &theirs);
                assert!(
                    difference < 1e-5,
                    "{size} ranks, accum {accum}, local {local_loss}: {difference}"
                );
                assert!(*end == several[0].1, "every rank has the same bits");
            }
        }
    }
}

#[test]
fn without_gather_with_grad_the_gradient_is_another() {
    let with = |gather_with_grad, local_loss| {
        let division = Division { local_loss, gather_with_grad };
        train_on(2, 1, division, &[]).swap_remove(0).0[0].grad_norm
    };
    let full = with(true, false);
    // open_clip averages over ranks what only one of them sees.
    assert!((with(false, false) / full - 0.5).abs() < 0.02, "{} of {full}", with(false, false));
    assert!((with(false, true) - full).abs() > 0.05 * full);
}

#[test]
fn running_statistics_are_the_same_on_all_ranks() {
    let division = Division::default();
    let changes = [Change::IdleChannels { ratio: 0.5 }];
    let all = on_each(2, |mut ranks| {
        let mut trainer = trainer(division, &changes);
        let rank = ranks.rank();
        let micro = |_: usize| Ok(batch(0, rank * 4, 4));
        trainer.step_among(0, 1, &micro, &mut ranks).unwrap();
        ranks.leave(None);
        let buffers = trainer.clip.params().buffers().values();
        buffers
            .flat_map(|b| b.flatten_all().unwrap().to_vec1::<f32>().unwrap())
            .collect::<Vec<f32>>()
    });
    assert!(all[0] == all[1]);
    assert!(all[0].iter().any(|value| *value != 0.0 && *value != 1.0));
}

#[test]
fn a_rank_that_is_gone_stops_the_others_with_its_name() {
    let (seats, began) = (seats(3), Instant::now());
    let errors: Vec<_> = thread::scope(|scope| {
        let rank = |seat: &Seat| {
            let mut ranks = meet(seat);
            ranks.gather(b"here").unwrap();
            if ranks.rank() == 1 {
                // As a process that is killed: the connection closes without a word.
                ranks.cut();
                return None;
            }
            Some(ranks.sum(&mut [1.0; 8]).unwrap_err())
        };
        let all: Vec<_> = seats.iter().map(|seat| scope.spawn(move || rank(seat))).collect();
        all.into_iter().filter_map(|one| one.join().unwrap()).collect()
    });
    assert_eq!(errors.len(), 2);
    for error in errors {
        assert_eq!(error.kind(), Kind::Network);
        let text = error.to_string();
        assert!(text.contains("rank 1 (127.0.0.1:"), "{text}");
        assert!(text.contains("is gone"), "{text}");
    }
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_rank_that_gives_no_sign_of_life_is_named() {
    let seats = seats(2);
    thread::scope(|scope| {
        let silent = scope.spawn(|| {
            // Greets as rank 1 and then hangs.
            let mut stream = loop {
                match TcpStream::connect(("127.0.0.1", seats[1].port)) {
                    Ok(stream) => break stream,
                    Err(_) => thread::sleep(Duration::from_millis(10)),
                }
            };
            let hello = format!(
                r#"{{"magic":"clipmill ranks 1","version":"{}","rank":1,"size":2,"job":"","process":7}}"#,
                env!("CARGO_PKG_VERSION")
            );
            let mut message = vec![1];
            message.extend((hello.len() as u64).to_le_bytes());
            message.extend(hello.as_bytes());
            stream.write_all(&message).unwrap();
            thread::sleep(PATIENCE.silence * 3);
        });
        let error = meet(&seats[0]).gather(b"here").unwrap_err().to_string();
        assert!(error.contains("process 7) gives no sign of life"), "{error}");
        silent.join().unwrap();
    });
}

/// More than the buffers of a connection hold: 32 MiB.
const GRADIENT: usize = 8 << 20;

#[test]
fn a_rank_that_works_for_longer_than_the_silence_takes_a_gradient_that_fills_the_connection() {
    // Rank 0 works while the others send; rank 2's stays in the connection until rank 1, which
    // works for longer still, has sent.
    let sums = on_each(3, |mut ranks| {
        let rank = ranks.rank();
        if rank < 2 {
            thread::sleep(PATIENCE.silence * [2, 3][rank]);
        }
        let mut gradient = vec![(rank + 1) as f32; GRADIENT];
        ranks.sum(&mut gradient).unwrap();
        // The other way: rank 0 sends to ranks that work.
        if rank > 0 {
            thread::sleep(PATIENCE.silence * 2);
        }
        ranks.broadcast(&mut gradient).unwrap();
        ranks.leave(None);
        gradient
    });
    for (rank, sum) in sums.into_iter().enumerate() {
        assert!(sum.iter().all(|value| *value == 6.0), "rank {rank}");
    }
}

#[test]
fn a_rank_that_neither_takes_a_gradient_nor_gives_a_sign_of_life_is_named() {
    let seats = seats(2);
    let listener = TcpListener::bind(("127.0.0.1", seats[0].port)).unwrap();
    thread::scope(|scope| {
        let hung = scope.spawn(move || {
            // Welcomes rank 1 and then hangs.
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(&[&[2][..], &[0; 8]].concat()).unwrap();
            stream
        });
        let mut ranks = meet(&seats[1]);
        let _open = hung.join().unwrap();
        let error = ranks.sum(&mut vec![1.0; GRADIENT]).unwrap_err().to_string();
        assert!(error.contains("rank 0 (127.0.0.1:"), "{error}");
        assert!(error.contains("gives no sign of life"), "{error}");
    });
}

#[test]
fn a_rank_that_only_says_that_it_lives_is_not_listened_to_for_ever_after_a_write_failed() {
    let seats = seats(2);
    let listener = TcpListener::bind(("127.0.0.1", seats[0].port)).unwrap();
    thread::scope(|scope| {
        scope.spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(&[&[2][..], &[0; 8]].concat()).unwrap();
            // Speaks out of turn, which ends the other's write, and then gives signs of life only.
            stream.write_all(&[&[3][..], &[0; 8]].concat()).unwrap();
            while stream.write_all(&[&[4][..], &[0; 8]].concat()).is_ok() {
                thread::sleep(Duration::from_millis(20));
            }
        });
        let mut ranks = meet(&seats[1]);
        let error = ranks.sum(&mut vec![1.0; GRADIENT]).unwrap_err().to_string();
        assert!(error.contains("cannot be understood: Data out of turn"), "{error}");
        ranks.cut();
    });
}

#[test]
fn only_a_loopback_address_that_is_written_out_keeps_others_away() {
    // All of 127/8 is this machine, so another of its addresses stands for another machine.
    let ranks_of = |address: &str| {
        let mut seats = seats(2);
        seats[0].address = address.to_owned();
        seats[1].address = "127.0.0.2".to_owned();
        seats
    };
    // What rank 0's own name stands for on its machine does not matter, not even to be known.
    let seats = ranks_of("rank-0.invalid");
    thread::scope(|scope| {
        let first = scope.spawn(|| meet(&seats[0]).gather(b"first").unwrap());
        let all = meet(&seats[1]).gather(b"second").unwrap();
        assert_eq!(all, [b"first".to_vec(), b"second".to_vec()]);
        assert_eq!(first.join().unwrap(), all);
    });
    for address in ["127.0.0.1", "localhost"] {
        let seats = ranks_of(address);
        let patience = Patience { join: Duration::from_millis(500), ..PATIENCE };
        thread::scope(|scope| {
            let first = scope.spawn(|| Tcp::meet(&seats[0], patience, &Cancel::default()).err());
            let error = Tcp::meet(&seats[1], patience, &Cancel::default()).err().unwrap();
            assert!(error.to_string().contains("rank 0 did not answer"), "{error}");
            let error = first.join().unwrap().unwrap().to_string();
            assert!(error.contains("rank 1 of 2 did not come within"), "{error}");
        });
    }
}

#[test]
fn an_error_of_one_rank_is_told_to_all() {
    let errors = on_each(3, |mut ranks| {
        if ranks.rank() == 2 {
            ranks.leave(Some(&stage::Error::input("the disk is gone")));
            return None;
        }
        Some(ranks.gather(b"").unwrap_err().to_string())
    });
    for error in errors.into_iter().flatten() {
        assert!(error.starts_with("rank 2 (127.0.0.1:"), "{error}");
        assert!(error.ends_with("stopped: the disk is gone"), "{error}");
    }
}

#[test]
fn a_rank_that_does_not_come_is_named_and_strangers_do_no_harm() {
    let seat = &seats(2)[0];
    thread::scope(|scope| {
        let stranger = scope.spawn(|| {
            while TcpStream::connect(("127.0.0.1", seat.port)).is_err() {
                thread::sleep(Duration::from_millis(10));
            }
        });
        let patience = Patience { join: Duration::from_millis(300), ..PATIENCE };
        let error = Tcp::meet(seat, patience, &Cancel::default()).err().unwrap();
        assert!(error.to_string().contains("rank 1 of 2 did not come"), "{error}");
        stranger.join().unwrap();
    });
}

/// The head of a greeting of so many bytes.
fn greeting_of(length: u64) -> Vec<u8> {
    [&[1][..], &length.to_le_bytes()].concat()
}

#[test]
fn strangers_that_are_silent_or_drip_hold_up_no_rank() {
    let seats = seats(2);
    let port = seats[0].port;
    let stranger = move |first: &'static [u8], then: Option<u8>| {
        let mut stream = loop {
            match TcpStream::connect(("127.0.0.1", port)) {
                Ok(stream) => break stream,
                Err(_) => thread::sleep(Duration::from_millis(10)),
            }
        };
        let _refused = stream.write_all(first);
        // A byte now and then: each comes in time, and the greeting never ends.
        while then.is_none_or(|byte| stream.write_all(&[byte]).is_ok()) {
            thread::sleep(Duration::from_millis(40));
            let mut ended = [0];
            let _ = stream.set_read_timeout(Some(Duration::from_millis(1)));
            match stream.read(&mut ended) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                _ => break,
            }
        }
    };
    thread::scope(|scope| {
        let first = scope.spawn(|| meet(&seats[0]).gather(b"first").unwrap());
        for _ in 0..5 {
            scope.spawn(move || stranger(b"", None));
            scope.spawn(move || stranger(b"\x01\x00\x0f\0\0\0\0\0\0", Some(b'{')));
            scope.spawn(move || stranger(b"GET / HTTP/1.1\r\n\r\n", None));
        }
        // All of them stand at the door before the rank does.
        thread::sleep(Duration::from_millis(200));
        let second = meet(&seats[1]).gather(b"second").unwrap();
        assert_eq!(second, [b"first".to_vec(), b"second".to_vec()]);
        assert_eq!(first.join().unwrap(), second);
    });
}

#[test]
fn strangers_are_counted_and_what_they_announce_takes_no_memory() {
    let seat = &seats(2)[0];
    thread::scope(|scope| {
        let strangers = scope.spawn(|| {
            let said = [greeting_of(u64::MAX), greeting_of(3), b"SSH-2.0-x\r\n".to_vec(), vec![]];
            said.map(|bytes| {
                let mut stream = loop {
                    match TcpStream::connect(("127.0.0.1", seat.port)) {
                        Ok(stream) => break stream,
                        Err(_) => thread::sleep(Duration::from_millis(10)),
                    }
                };
                stream.write_all(&bytes).unwrap();
                stream
            })
        });
        let patience = Patience { join: Duration::from_millis(800), ..PATIENCE };
        let error = Tcp::meet(seat, patience, &Cancel::default()).err().unwrap().to_string();
        assert!(error.contains("rank 1 of 2 did not come"), "{error}");
        assert!(error.contains("4 connections were refused"), "{error}");
        drop(strangers.join().unwrap());
    });
}

#[test]
fn a_rank_of_another_training_is_told_why_it_may_not_join() {
    let seats = seats(2);
    thread::scope(|scope| {
        let patience = Patience { join: Duration::from_millis(800), ..PATIENCE };
        let first = scope.spawn({
            let seat = &seats[0];
            move || Tcp::meet(seat, patience, &Cancel::default()).is_err()
        });
        let other = Seat { size: 3, ..seats[1].clone() };
        let error = Tcp::meet(&other, PATIENCE, &Cancel::default()).err().unwrap().to_string();
        assert!(error.contains("rank 0 counts 2 ranks, this is rank 1 of 3"), "{error}");
        assert!(first.join().unwrap());
    });
}

/// Asks to stop after this many steps.
struct StopAt(u64, Cancel);

impl stage::Progress for StopAt {
    fn update(&self, done: u64, _total: u64, _note: &str) {
        if done == self.0 {
            self.1.cancel();
        }
    }
}

/// A whole training of these plans, one a rank: rank 0's weights, or each rank's error. Rank 0 is
/// asked to stop after `stop` steps.
fn whole(
    plans: &[TrainPlan],
    dir: &std::path::Path,
    stop: u64,
) -> Vec<Result<Vec<u8>, stage::Error>> {
    let seats = seats(plans.len());
    thread::scope(|scope| {
        let rank = |seat: &Seat, plan: &TrainPlan| {
            let data = Shapes::new(64, 32);
            let cancel = Cancel::default();
            let progress = std::sync::Arc::new(StopAt(stop, cancel.clone()));
            let cx = Context { threads: 1, cancel, progress, ..Context::default() };
            let ranks: Box<dyn Ranks> = match plans.len() {
                1 => Box::new(train::ranks::Alone),
                _ => Box::new(meet(seat)),
            };
            let job = Job { ranks, ..Job::new(plan, &data) };
            if seat.rank > 0 {
                return train::follow(job, &cx).map(|()| Vec::new());
            }
            let output = store::Output::open(&dir.join("out").to_string_lossy()).unwrap();
            let mut out = output.stage("train").begin("run").unwrap();
            train::run(job, &dir.join("work"), &mut out, &cx)?;
            Ok(std::fs::read(out.local_dir().join("weights.safetensors")).unwrap())
        };
        let all: Vec<_> = seats
            .iter()
            .zip(plans)
            .map(|(seat, plan)| scope.spawn(move || rank(seat, plan)))
            .collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    })
}

fn plan(dir: &std::path::Path, batch: u32) -> TrainPlan {
    let model = dir.join("model.json");
    std::fs::create_dir_all(dir).unwrap();
    let json = r#"{"embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16},
        "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}}"#;
    std::fs::write(&model, json).unwrap();
    TrainPlan {
        model: Some(model.to_string_lossy().into_owned()),
        batch_size: Some(batch),
        steps: Some(6),
        save_every: 3,
        ..TrainPlan::default()
    }
}

fn floats(safetensors: &[u8]) -> Vec<f32> {
    let tensors = candle_core::safetensors::load_buffer(safetensors, &Device::Cpu).unwrap();
    let mut names: Vec<&String> = tensors.keys().filter(|n| !n.ends_with("in_proj_bias")).collect();
    names.sort();
    let values = |name: &String| {
        tensors[name].to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    names.into_iter().flat_map(values).collect()
}

#[test]
fn a_whole_training_on_two_ranks_sees_the_samples_of_one() {
    let dir = tempfile::tempdir().unwrap();
    let one = plan(&dir.path().join("one"), 16);
    let alone = whole(&[one], &dir.path().join("one"), u64::MAX).swap_remove(0).unwrap();
    let two = plan(&dir.path().join("two"), 8);
    let pair = whole(&[two.clone(), two], &dir.path().join("two"), u64::MAX);
    let pair: Vec<Vec<u8>> = pair.into_iter().map(Result::unwrap).collect();
    let difference = largest_difference(&floats(&alone), &floats(&pair[0]));
    assert!(difference < 1e-5, "{difference}");
}

#[test]
fn one_rank_of_the_double_batch_goes_on_where_two_were_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let (two, one) = (plan(dir.path(), 8), plan(dir.path(), 16));
    let stopped = whole(&[two.clone(), two], dir.path(), 4);
    assert!(stopped.iter().all(|r| r.as_ref().unwrap_err().kind() == Kind::Interrupted));
    let alone = whole(std::slice::from_ref(&one), dir.path(), u64::MAX).swap_remove(0).unwrap();
    let metrics = std::fs::read_to_string(dir.path().join("work/metrics.jsonl")).unwrap();
    assert_eq!(metrics.lines().count(), 6);
    let log = std::fs::read_to_string(dir.path().join("work/out.log")).unwrap();
    assert_eq!(log.matches("Train Epoch: 0 ").count(), 2, "it did not begin again: {log}");
    let other = tempfile::tempdir().unwrap();
    let whole = whole(&[one], other.path(), u64::MAX).swap_remove(0).unwrap();
    assert!(largest_difference(&floats(&alone), &floats(&whole)) < 1e-5);
}

#[test]
fn ranks_of_other_plans_do_not_train() {
    let dir = tempfile::tempdir().unwrap();
    let first = plan(dir.path(), 8);
    let second = TrainPlan { lr: Some(1e-2), ..first.clone() };
    for (rank, result) in whole(&[first, second], dir.path(), u64::MAX).into_iter().enumerate() {
        let error = result.unwrap_err().to_string();
        assert!(error.contains("settings.lr was 0.0005, is 0.01"), "rank {rank}: {error}");
    }
}
