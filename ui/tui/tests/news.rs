//! A screen on which nothing happens is not drawn again.

use std::collections::BTreeMap;

use super::super::news::is_news;
use super::super::probe::Probe;
use super::*;

/// Whether the processes are news when they come again, changed so.
fn told(edit: impl FnOnce(&mut Survey)) -> bool {
    let model = model(RICH, (80, 24));
    let Msg::Processes(mut again) = survey() else {
        unreachable!("processes");
    };
    edit(&mut again);
    is_news(&model, &Msg::Processes(again))
}

#[test]
fn only_processes_that_are_no_longer_what_they_were_are_news() {
    assert!(!told(|_| ()));
    assert!(told(|survey| survey.trees[0].rss += 4096));
    assert!(told(|survey| survey.tracked.clear()));
    assert!(told(|survey| survey.status = Some("new".into())));
}

#[test]
fn time_is_news_when_an_age_is_told_otherwise() {
    assert!(!told(|survey| survey.now += Duration::from_millis(1)));
    assert!(told(|survey| survey.now += Duration::from_secs(86400)));
}

#[test]
fn what_goes_away_by_itself_makes_the_next_second_news() {
    let mut model = model(RICH, (80, 24));
    assert!(!is_news(&model, &survey()));
    model.toast(Mark::Good, "done");
    assert!(is_news(&model, &survey()));
}

#[test]
fn what_was_found_of_processes_is_news_once() {
    let mut model = model(RICH, (80, 24));
    let probe = Probe {
        descriptors: Some(4),
        dump: None,
    };
    let msg = || Msg::Probed(BTreeMap::from([(812, probe.clone())]));
    assert!(is_news(&model, &msg()));
    update(&mut model, msg());
    assert!(!is_news(&model, &msg()));
}

#[test]
fn a_process_that_is_gone_gives_its_pane_to_the_selected_one() {
    let mut model = model(RICH, (120, 35));
    model.watched = Some(Pid::from_raw(999_999));
    assert!(!text(&model).contains("attaching"), "{}", text(&model));
    let here = model.process().unwrap().pid;
    model.watched = Some(here);
    model.live.clear();
    assert!(text(&model).contains("attaching"), "{}", text(&model));
}
