//! Processes that are marked together.

use super::*;

fn select(model: &mut Model, pid: i32) {
    let at = model.processes.iter().position(|r| r.pid.as_raw() == pid);
    model.process_cursor.at = at.unwrap();
}

/// The roots of the dumps that are planned.
fn planned(effects: &[Effect]) -> Vec<i32> {
    let [Effect::Plan(_, Wish::Each(wishes))] = effects else {
        panic!("{effects:?}")
    };
    let root = |wish: &Wish| match wish {
        Wish::Dump { root, .. } => root.as_raw(),
        other => panic!("{other:?}"),
    };
    wishes.iter().map(root).collect()
}

#[test]
fn marked_trees_are_dumped_after_one_preview_each_by_a_job_of_its_own() {
    let mut model = model(RICH, (120, 35));
    // The worker is inside the tree of its parent, which is marked after it.
    for pid in [812, 1040, 1031] {
        select(&mut model, pid);
        key(&mut model, KeyCode::Char(' '));
    }
    assert!(text(&model).contains(", 3 marked"));
    let effects = key(&mut model, KeyCode::Char('d'));
    assert_eq!(planned(&effects), [812, 1031]);
    let [Effect::Plan(id, wish)] = effects.as_slice() else {
        panic!("{effects:?}")
    };
    let mut preview = Preview::new("Dump 2 trees");
    preview.offer("Dump all 2", wish.clone(), true);
    update(&mut model, Msg::Planned(*id, Ok(preview)));
    let effects = key(&mut model, KeyCode::Enter);
    let roots = effects.iter().map(|effect| match effect {
        Effect::Apply(_, Wish::Dump { root, .. }) => root.as_raw(),
        other => panic!("{other:?}"),
    });
    assert_eq!(roots.collect::<Vec<_>>(), [812, 1031]);
    assert!(model.marks.is_empty());
}

#[test]
fn marks_count_where_they_are_seen_and_go_with_their_processes() {
    let mut model = model(RICH, (120, 35));
    select(&mut model, 812);
    key(&mut model, KeyCode::Char('m'));
    select(&mut model, 1031);
    key(&mut model, KeyCode::Char('m'));
    let effects = key(&mut model, KeyCode::Char('p'));
    let both = [812, 1031].map(Pid::from_raw).to_vec();
    assert_eq!(effects, [Effect::Look(Look::Check(both))]);
    let effects = key(&mut model, KeyCode::Char('w'));
    let begun = [812, 1031].map(|pid| Effect::Attach(Pid::from_raw(pid)));
    assert_eq!(effects, begun);
    // Elsewhere d means what is selected.
    model.focus = Focus::Stacks;
    let effects = key(&mut model, KeyCode::Char('d'));
    assert!(matches!(
        effects.as_slice(),
        [Effect::Plan(_, Wish::Dump { .. })]
    ));
    model.focus = Focus::Processes;
    let Msg::Processes(mut survey) = survey() else {
        panic!()
    };
    // Another process has the pid now.
    survey.trees[0].start_time += 1;
    update(&mut model, Msg::Processes(survey));
    assert_eq!(model.marks.keys().copied().collect::<Vec<_>>(), [1031]);
    key(&mut model, KeyCode::Esc);
    assert!(model.marks.is_empty());
}
