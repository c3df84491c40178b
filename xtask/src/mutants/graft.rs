//! The mutants as cargo-mutants lists them, and a file of source with all of its own grafted in.
//!
//! `fn f() { a + b }` becomes `fn f() { match crate::mutation::chosen(1) { 1 => { a - b } _ => { a + b } } }`.
//! The number in brackets tells the function: it is that of its first mutant. Bodies are cut out by the places that the list tells; only the brace where a body begins is looked
//! for in the text.

use std::collections::BTreeMap;
use std::ops::Range;

/// What became of a mutant.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Outcome {
    /// A test failed.
    Caught,
    /// A test did not end.
    Hung,
    /// No test noticed; also before the tests have run.
    #[default]
    Missed,
    /// It does not compile.
    Unviable,
    /// It cannot be an arm.
    NotRun,
}

/// One change.
#[derive(Clone, Default, Debug)]
pub struct Mutant {
    /// Which arm it is, from 1 on.
    pub id: usize,
    /// The first mutant of its function.
    pub first: usize,
    /// What became of it.
    pub outcome: Outcome,
    /// The file, from the root of the workspace.
    pub file: String,
    /// Its line in the list.
    pub name: String,
    /// Where its function stands: line and column of the begin and of the end, from 1 on.
    pub function: [(usize, usize); 2],
    /// What it replaces there.
    pub span: [(usize, usize); 2],
    /// By what.
    pub replacement: String,
}

/// Reads the list.
pub fn listed(json: &str) -> Result<Vec<Mutant>, String> {
    let list: serde_json::Value = serde_json::from_str(json).map_err(|e| e.to_string())?;
    let span = |value: &serde_json::Value| {
        ["start", "end"].map(|end| {
            let number = |name: &str| value[end][name].as_u64().unwrap_or(0) as usize;
            (number("line"), number("column"))
        })
    };
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let list = list.as_array().ok_or("the list is none")?;
    let mutants = list.iter().enumerate().map(|(i, value)| Mutant {
        id: i + 1,
        first: 0,
        outcome: Outcome::default(),
        file: text(&value["file"]),
        name: text(&value["name"]),
        function: span(&value["function"]["span"]),
        span: span(&value["span"]),
        replacement: text(&value["replacement"]),
    });
    Ok(mutants.collect())
}

/// `source` with those of `mutants` that are still to run; they are all of this file. Those that
/// cannot be arms become [`Outcome::NotRun`]. And the lines of each arm in the result.
pub fn graft(source: &str, mutants: &mut [Mutant]) -> (String, Vec<(usize, Range<usize>)>) {
    let source: Vec<char> = source.chars().collect();
    let lines: Vec<usize> = std::iter::once(0)
        .chain(source.iter().enumerate().filter(|(_, c)| **c == '\n').map(|(i, _)| i + 1))
        .collect();
    let at = |(line, column): (usize, usize)| lines[line - 1] + column - 1;
    let range = |span: [(usize, usize); 2]| at(span[0])..at(span[1]);
    let mut functions: BTreeMap<(usize, usize), Vec<&mut Mutant>> = BTreeMap::new();
    for mutant in mutants.iter_mut().filter(|mutant| mutant.outcome == Outcome::Missed) {
        let function = if mutant.function[0].0 == 0 { 0..0 } else { range(mutant.function) };
        functions.entry((function.start, function.end)).or_default().push(mutant);
    }
    let (mut text, mut arms, mut done) = (String::new(), Vec::new(), 0);
    for ((start, end), mutants) in functions {
        let body = (start >= done).then(|| body(&source[start..end])).flatten();
        let Some(body) = body.map(|body| start + body.start..start + body.end) else {
            mutants.into_iter().for_each(|mutant| mutant.outcome = Outcome::NotRun);
            continue;
        };
        text.extend(&source[done..body.start]);
        let first = mutants[0].id;
        text += &format!(" match crate::mutation::chosen({first}) {{\n");
        for mutant in mutants {
            mutant.first = first;
            let replaced = range(mutant.span);
            let line = text.matches('\n').count() + 1;
            text += &format!("{} => {{", mutant.id);
            text.extend(&source[body.start..replaced.start]);
            text += &mutant.replacement;
            text.extend(&source[replaced.end..body.end]);
            text += "\n}\n";
            arms.push((mutant.id, line..text.matches('\n').count() + 1));
        }
        text += "_ => {";
        text.extend(&source[body.clone()]);
        text += "} } ";
        done = body.end;
    }
    text.extend(&source[done..]);
    (text, arms)
}

/// What stands between the braces of a function's body, if it can be arms: not of a `const fn`,
/// and not of one whose type is known by its body alone.
fn body(function: &[char]) -> Option<Range<usize>> {
    let (mut signature, mut i, mut depth) = (String::new(), 0, 0);
    loop {
        match function.get(i)? {
            '/' if function.get(i + 1) == Some(&'/') => {
                i += function[i..].iter().position(|c| *c == '\n')?;
            }
            '"' => i += 1 + function[i + 1..].iter().position(|c| *c == '"')?,
            '{' if depth == 0 => break,
            c => {
                // A pattern among the arguments has braces of its own.
                depth += i32::from(*c == '(') - i32::from(*c == ')');
                signature.push(*c);
            }
        }
        i += 1;
    }
    let is_opaque = signature.split_once("->").is_some_and(|(_, to)| to.contains("impl "));
    let is_body = function.last() == Some(&'}') && !signature.contains("const fn") && !is_opaque;
    is_body.then_some(i + 1..function.len() - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str =
        "/// A {.\nfn f(T { é }: T) -> u8 {\n    é + 1\n}\nconst fn g() -> u8 { 1 + 2 }\n";

    fn mutant(id: usize, function: [(usize, usize); 2], line: usize, column: usize) -> Mutant {
        let span = [(line, column), (line, column + 1)];
        Mutant { id, function, span, replacement: "-".into(), ..Mutant::default() }
    }

    /// Goal: the arm of a mutant is the body with the change and nothing else, the last one the
    /// body as it is; and a `const fn` is left as it is and said not to be run.
    #[test]
    fn a_mutant_is_an_arm_and_the_last_arm_is_the_function() {
        let mut mutants = [mutant(7, [(1, 1), (4, 2)], 3, 7), mutant(8, [(5, 1), (5, 29)], 5, 24)];
        let (text, arms) = graft(SOURCE, &mut mutants);
        let arm =
            "\n7 => {\n    é - 1\n\n}\n_ => {\n    é + 1\n} } }\nconst fn g() -> u8 { 1 + 2 }\n";
        let head = "/// A {.\nfn f(T { é }: T) -> u8 { match crate::mutation::chosen(7) {";
        assert_eq!(text, format!("{head}{arm}"));
        assert_eq!(arms, [(7, 3..7)]);
        assert_eq!(mutants.each_ref().map(|m| m.outcome), [Outcome::Missed, Outcome::NotRun]);
        assert_eq!(mutants.map(|mutant| mutant.first), [7, 0]);
    }

    /// Goal: the list is read as the tool writes it.
    #[test]
    fn the_list_is_read() {
        let json = r#"[{"file": "a.rs", "name": "n", "replacement": "-", "function":
            {"span": {"start": {"line": 1, "column": 2}, "end": {"line": 3, "column": 4}}},
            "span": {"start": {"line": 2, "column": 5}, "end": {"line": 2, "column": 6}}}]"#;
        let mutants = listed(json).unwrap();
        let [mutant] = &mutants[..] else { panic!("{mutants:?}") };
        assert_eq!(
            (mutant.id, mutant.function, mutant.span),
            (1, [(1, 2), (3, 4)], [(2, 5), (2, 6)])
        );
        assert!(listed("{}").is_err());
    }
}
