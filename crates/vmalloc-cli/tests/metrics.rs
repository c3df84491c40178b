//! `info --metrics`, read back by a parser of the format.

mod common;

use common::{Place, json, noise, refused, text, vmalloc};
use std::collections::{BTreeMap, BTreeSet};
use vmalloc::Pool;

/// A family of metrics, as OpenMetrics 1.0 has it.
#[derive(Default, Debug)]
struct Family {
    kind: String,
    unit: Option<String>,
    help: Option<String>,
    /// Name's suffix and labels, to the value.
    samples: BTreeMap<(String, BTreeMap<String, String>), f64>,
}

/// Parses an exposition, and panics where the format is broken.
fn parse(text: &str) -> BTreeMap<String, Family> {
    let body = text.strip_suffix("# EOF").expect("the last line is the end");
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut current = String::new();
    for line in body.lines() {
        if let Some(meta) = line.strip_prefix("# ") {
            let mut words = meta.splitn(3, ' ');
            let [word, name, rest] =
                std::array::from_fn(|_| words.next().unwrap_or_else(|| panic!("{line}")));
            if name != current {
                assert!(!families.contains_key(name), "{name} comes twice, or in pieces");
                name.clone_into(&mut current);
            }
            let family = families.entry(name.to_owned()).or_default();
            assert!(family.samples.is_empty(), "what describes a family comes before it: {line}");
            match word {
                "TYPE" => rest.clone_into(&mut family.kind),
                "UNIT" => {
                    assert!(name.ends_with(&format!("_{rest}")), "{line}");
                    family.unit = Some(rest.to_owned());
                }
                "HELP" => family.help = Some(rest.to_owned()),
                _ => panic!("{line}"),
            }
            continue;
        }
        let (name, labels, value) = sample(line);
        let family = families.get_mut(&current).unwrap();
        let suffix = name.strip_prefix(current.as_str()).unwrap_or_else(|| panic!("{line}"));
        let right = match family.kind.as_str() {
            "gauge" => suffix.is_empty(),
            "counter" => suffix == "_total" && value >= 0.0,
            "info" => suffix == "_info" && value == 1.0,
            kind => panic!("{kind}"),
        };
        assert!(right, "{line}");
        let before = family.samples.insert((suffix.to_owned(), labels), value);
        assert_eq!(before, None, "twice: {line}");
    }
    families
}

/// `name{label="value",…} number`.
fn sample(line: &str) -> (String, BTreeMap<String, String>, f64) {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let end = line.find(|c| !is_name(c)).unwrap();
    let (name, mut rest) = line.split_at(end);
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            let (label, after) = rest.split_once("=\"").unwrap();
            assert!(label.chars().all(is_name), "{line}");
            let mut value = String::new();
            let mut chars = after.char_indices();
            let close = loop {
                match chars.next().unwrap_or_else(|| panic!("{line}")) {
                    (at, '"') => break at,
                    (_, '\\') => match chars.next().unwrap().1 {
                        'n' => value.push('\n'),
                        c => value.push(c),
                    },
                    (_, c) => value.push(c),
                }
            };
            labels.insert(label.to_owned(), value);
            rest = &after[close + 1..];
            match rest.strip_prefix(',') {
                Some(next) => rest = next,
                None => break,
            }
        }
        rest = rest.strip_prefix('}').unwrap();
    }
    (name.to_owned(), labels, rest.strip_prefix(' ').unwrap().parse().unwrap())
}

/// The value of a sample with these labels.
fn value(families: &BTreeMap<String, Family>, name: &str, labels: &[(&str, &str)]) -> f64 {
    let family = families.get(name).unwrap_or_else(|| panic!("no {name}"));
    let fits = |all: &BTreeMap<String, String>| {
        labels.iter().all(|(label, value)| all.get(*label).is_some_and(|v| v == value))
    };
    let mut found = family.samples.iter().filter(|((_, all), _)| fits(all));
    let (_, value) = found.next().unwrap_or_else(|| panic!("{name}: {family:#?}"));
    assert!(found.next().is_none(), "{name} {labels:?} is there twice");
    *value
}

#[test]
fn metrics_of_a_pool_are_well_formed_and_say_what_json_says() {
    let place = Place::with_pool("metrics \"quoted\" \\", "4M");
    place.put(&noise(5000, 1));
    place.put(&noise(9000, 1));
    let families = parse(&text(vmalloc(&["info", place.str(), "--metrics"])));
    let info = place.info();
    let id = info["id"].as_str().unwrap();
    let get =
        |name, labels: &[(&str, &str)]| value(&families, name, &[&[("pool", id)], labels].concat());
    assert_eq!(get("vmalloc_pool", &[("path", place.str())]), 1.0);
    assert_eq!(get("vmalloc_capacity_bytes", &[]), f64::from(4 << 20));
    assert_eq!(get("vmalloc_allocs", &[]), 2.0);
    assert_eq!(get("vmalloc_areas", &[("state", "frozen")]), 2.0);
    assert_eq!(get("vmalloc_areas", &[("state", "live")]), 0.0);
    assert_eq!(get("vmalloc_area_bytes", &[("state", "frozen")]), f64::from(5 * 4096));
    assert_eq!(get("vmalloc_members_alive", &[]), 0.0);
    for (name, family) in &families {
        assert!(family.help.as_ref().is_some_and(|help| help.ends_with('.')), "{name}");
        assert_eq!(family.unit.is_some(), name.ends_with("_bytes") || name.ends_with("_seconds"));
    }
    refused(vmalloc(&["info", place.str(), "--metrics", "--json"]), 2);
}

/// Goal: of a process with several pools each family is told once, with a sample a pool.
#[test]
fn metrics_of_a_process_tell_each_pool_once() {
    let pools = [1 << 20, 2 << 20].map(|bytes| Pool::create(bytes).unwrap());
    let me = std::process::id().to_string();
    let families = parse(&text(vmalloc(&["info", &me, "--metrics"])));
    for pool in &pools {
        let id = format!("{:08x}", pool.info().id);
        let capacity = value(&families, "vmalloc_capacity_bytes", &[("pool", &id)]);
        assert_eq!(capacity, pool.info().capacity_bytes as f64);
        assert_eq!(value(&families, "vmalloc_members_alive", &[("pool", &id)]), 1.0);
    }
    let listed = json(vmalloc(&["info", &me, "--json"]));
    let ids: BTreeSet<&str> =
        listed.as_array().unwrap().iter().map(|pool| pool["id"].as_str().unwrap()).collect();
    assert!(families["vmalloc_frees"].samples.len() >= 2 && ids.len() >= 2);
}
