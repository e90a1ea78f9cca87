//! `docs/convox.md` names a test for each known defect of the vendor's SDK; they are all there.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[test]
fn every_defect_has_its_test() {
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let doc = std::fs::read_to_string(here.join("../../docs/convox.md")).unwrap();
    let mut numbers = Vec::new();
    for row in doc.lines().filter(|l| l.starts_with("| ")) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let Ok(number) = cells[1].parse::<u32>() else {
            continue;
        };
        numbers.push(number);
        let (file, name) = cells[4].trim_matches('`').split_once("::").unwrap();
        let text = std::fs::read_to_string(here.join("tests").join(file)).unwrap();
        let at = text
            .find(&format!("fn {name}()"))
            .unwrap_or_else(|| panic!("{file}: no {name}"));
        let above = text[..at].trim_end_matches("async ").trim_end();
        assert!(above.ends_with("test]"), "{file}: {name} is no test");
    }
    assert_eq!(numbers, (1..=21).collect::<Vec<_>>());
}
