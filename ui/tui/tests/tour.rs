//! The tour: what its banner shows, and what takes it on.

use super::*;

fn step(text: &str, done: fn(&crate::tui::Facts) -> bool) -> Step {
    Step {
        text: text.into(),
        done,
    }
}

#[test]
fn the_banner_is_as_high_as_its_text_and_a_view_has_room_below_it() {
    let said = "Press d and Enter two more times: these layers hold only the pages that were written \
                since the one before; the columns on the right tell how many, and what they take on \
                the disk. The end";
    for size in [(80, 24), (120, 35), (60, 20), (40, 16)] {
        let mut model = model(RICH, size);
        model.guide = Some(Guide {
            steps: vec![step(said, |_| false)],
            at: 0,
        });
        model.settle();
        let shown = text(&model);
        assert!(shown.contains("end"), "{size:?}:\n{shown}");
        assert!(shown.contains("redis-server"), "{size:?}:\n{shown}");
    }
    // On the smallest screen one sees that there is more.
    let mut model = model(RICH, (40, 10));
    model.guide = Some(Guide {
        steps: vec![step(said, |_| false)],
        at: 0,
    });
    model.settle();
    let shown = text(&model);
    assert!(shown.contains('…') && shown.contains("PID"), "{shown}");
}

#[test]
fn a_layer_that_is_kept_before_a_roll_back_is_not_one_that_the_tour_waits_for() {
    let mut model = model(RICH, (120, 35));
    let done = |model: &mut Model, result| {
        let report = Report {
            text: String::new(),
            warnings: vec![],
            result,
        };
        update(model, Msg::Done(JOB, Ok(report)));
    };
    for number in 0..4 {
        done(&mut model, Made::Layer(format!("/img/r/{number}").into()));
    }
    assert_eq!((model.facts.dumps, model.facts.branches), (4, 0));
    let kept = Some("/img/r/4".into());
    done(
        &mut model,
        Made::Tree {
            root: Pid::from_raw(2207),
            start_time: Some(77),
            kept,
        },
    );
    assert_eq!((model.facts.dumps, model.facts.safeties), (4, 1));
    assert_eq!(model.facts.branches, 0, "nothing was asked for since");
    done(&mut model, Made::Layer("/img/r/5".into()));
    assert_eq!((model.facts.dumps, model.facts.branches), (5, 1));
}
