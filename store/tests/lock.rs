//! One run holds an output.

use stage::Kind;
use store::Output;

fn everywhere(test: impl Fn(&Output)) {
    let folder = tempfile::tempdir().unwrap();
    test(&Output::open(folder.path().join("out").to_str().unwrap()).unwrap());
    test(&Output::in_memory());
}

#[test]
fn a_second_run_is_told_who_holds_the_output_and_what_to_do() {
    everywhere(|output| {
        let lease = output.lock("cc-small").unwrap();
        lease.check().unwrap();
        let error = output.lock("cc-small again").unwrap_err();
        assert_eq!(error.kind(), Kind::Conflict);
        let text = error.to_string();
        let pid = format!("process {}", std::process::id());
        assert!(text.contains("run cc-small on ") && text.contains(&pid), "{text}");
        assert!(text.contains(", since 20"), "{text}");
        assert!(error.hint_text().unwrap().starts_with("wait until it ends"));
    });
}

#[test]
fn a_dropped_lease_is_free_again() {
    everywhere(|output| {
        for run in ["first", "second", "third"] {
            output.lock(run).unwrap().check().unwrap();
        }
    });
}

#[test]
fn shares_of_a_run_share_an_output_and_a_whole_run_does_not() {
    everywhere(|output| {
        let first = output.lock_share("run", 0, 3).unwrap();
        let second = output.lock_share("run", 1, 3).unwrap();
        assert_eq!(output.lock_share("run", 1, 3).unwrap_err().kind(), Kind::Conflict);
        let error = output.lock("whole").unwrap_err();
        assert_eq!(error.kind(), Kind::Conflict);
        assert!(error.to_string().contains("run run on "), "{error}");
        drop((first, second));
        let whole = output.lock("run").unwrap();
        assert_eq!(output.lock_share("run", 1, 3).unwrap_err().kind(), Kind::Conflict);
        drop(whole);
        output.lock_share("run", 1, 3).unwrap();
    });
}

#[test]
fn of_eight_runs_that_start_at_once_at_most_one_gets_the_output() {
    everywhere(|output| {
        let start = std::sync::Barrier::new(8);
        let won = std::thread::scope(|scope| {
            let runs: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        start.wait();
                        output.lock("run").ok()
                    })
                })
                .collect();
            // The leases live until all have tried.
            let leases: Vec<_> = runs.into_iter().map(|run| run.join().unwrap()).collect();
            leases.iter().flatten().count()
        });
        assert_eq!(won, 1);
    });
}
