//! Where settings come from, and that every mistake is named with its place.

use std::fs;

use super::*;
use crate::tui::action::Act;
use crate::tui::keymap::Chord;
use crate::tui::theme::Colors;

fn environment() -> Theme {
    Theme::of_environment(|_| String::new())
}

/// The configuration of a system's and a user's directory with these files.
fn config(files: &[(&str, &str)]) -> Result<Config> {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let paths = ["system", "user"].map(|name| dir.path().join(name).join("config.toml"));
    Config::of(&paths, Settings::default(), environment())
}

/// What is said about such files, without the directory.
fn mistake(files: &[(&str, &str)]) -> String {
    let error = config(files).unwrap_err();
    assert_eq!(error.kind(), Kind::Usage);
    assert!(error.next_step().is_some() || error.one_line().contains("should be"));
    let line = error.one_line();
    let at = line.find("user").or_else(|| line.find("system"));
    line[at.unwrap_or(0)..].to_owned()
}

#[test]
fn the_printed_files_say_what_holds_without_them() {
    let text: String = DEFAULT
        .lines()
        .filter_map(|line| line.strip_prefix('#'))
        .filter(|line| {
            line.split_once(" = ")
                .is_some_and(|(key, _)| settings::KNOWN.contains(&key))
        })
        .map(|line| format!("{line}\n"))
        .collect();
    assert_eq!(text.lines().count(), settings::KNOWN.len(), "{text}");
    let (bare, printed) = (
        config(&[]).unwrap(),
        config(&[("user/config.toml", &text)]).unwrap(),
    );
    // It says where the screen looks the first time.
    assert_eq!((bare.root, printed.root), (None, Some(".".into())));
    assert_eq!((bare.mouse, bare.state), (printed.mouse, printed.state));
    assert_eq!(bare.theme.palette, printed.theme.palette);
    assert!(
        Settings::of(&File::new(Path::new("x"), DEFAULT.into())).unwrap() == Settings::default()
    );

    let keys = keys::print(&Keymap::default());
    let printed = config(&[("user/keys.toml", &keys)]).unwrap();
    assert_eq!(printed.keys, Keymap::default());

    for (base, palette) in [("dark", DARK), ("light", LIGHT)] {
        let theme = themes::print(base, &palette);
        let files = [
            ("system/themes/mine.toml", theme.as_str()),
            ("user/config.toml", "theme = 'mine'"),
        ];
        let mut shown = config(&files).unwrap().theme.palette;
        let mut meant = palette;
        for ((name, shown), (_, meant)) in shown.roles().zip(meant.roles()) {
            assert_eq!(shown.rich, meant.rich, "{name}");
        }
    }
}

#[test]
fn the_user_wins_over_the_system_and_the_command_line_over_both() {
    let files = [
        ("system/config.toml", "theme = 'light'\nmouse = false\n"),
        ("system/keys.toml", "dump = 'ctrl-d'\nundo = 'U'\n"),
        (
            "user/config.toml",
            "theme = 'dark'\nroot = '/layers'\ncolors = '16'",
        ),
        ("user/keys.toml", "dump = ['f2', 'b']\n"),
    ];
    let config = config(&files).unwrap();
    assert_eq!(config.theme.palette, DARK);
    assert_eq!(
        (config.mouse, config.root.as_deref()),
        (false, Some(Path::new("/layers")))
    );
    assert_eq!(config.theme.colors, Colors::Sixteen);
    let key = |text: &str| text.parse::<Chord>().unwrap();
    assert_eq!(config.keys.of(Act::Dump), [key("f2"), key("b")]);
    assert_eq!(config.keys.of(Act::Undo), [key("U")]);
    let flags = Settings {
        theme: Some("light".into()),
        ascii: Some(Choice::Is(true)),
        ..Settings::default()
    };
    let flagged = Config::of(&[], flags, environment()).unwrap();
    assert!(flagged.theme.ascii && flagged.theme.palette == LIGHT);
}

#[test]
fn mistakes_are_named_with_file_line_and_column() {
    let user = |text: &str| mistake(&[("user/config.toml", text)]);
    assert!(user("\n  rot = 1").starts_with("user/config.toml:2:3: There is no setting"));
    assert!(user("mouse = 'yes'").starts_with("user/config.toml:1:9: This should be true or"));
    assert!(user("theme = 'none-such'").contains("There is no theme"));
    assert!(user("a = \n").starts_with("user/config.toml:1:5: "));
    let keys = |text: &str| mistake(&[("user/keys.toml", text)]);
    assert!(keys("# \u{e9}\ndmup = 'x'").starts_with("user/keys.toml:2:1: There is no action"));
    assert!(keys("dump = ['d', 'hm']").starts_with("user/keys.toml:1:14: This should be a key"));
    let twice = keys("undo = 'U'\ndump = 'q'");
    assert_eq!(
        twice,
        "user/keys.toml:2:1: The key q of dump is also the key of quit"
    );
    let theme = mistake(&[
        ("user/config.toml", "theme = 'mine'"),
        ("user/themes/mine.toml", "good = 'greenish'"),
    ]);
    assert!(theme.starts_with("user/themes/mine.toml:1:8: This should be a colour"));
}

#[test]
fn the_files_are_where_the_specification_says() {
    let some = |text: &str| Some(OsString::from(text));
    let of = |only, system, user, home| -> Vec<String> {
        let paths = paths_of(only, system, user, home);
        paths
            .iter()
            .map(|path| path.display().to_string())
            .collect()
    };
    let file = |dir: &str| format!("{dir}/icecore/config.toml");
    assert_eq!(
        of(None, None, None, some("/h")),
        [file("/etc/xdg"), file("/h/.config")]
    );
    let all = of(None, some("/b:/a:rel"), some("/c"), some("/h"));
    assert_eq!(all, [file("/a"), file("/b"), file("/c")]);
    assert_eq!(
        of(some("/x.toml"), some("/a"), some("/c"), None),
        ["/x.toml"]
    );
}
