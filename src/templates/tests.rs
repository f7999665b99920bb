//! The built-in files, load errors, and hostile values of variables.

use std::{fs, path::Path, sync::LazyLock};

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn at(instant: &str) -> DateTime<Utc> {
    instant.parse().unwrap()
}

fn map(variables: Value) -> Map<String, Value> {
    match variables {
        Value::Object(variables) => variables,
        _ => panic!("no object: {variables}"),
    }
}

fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = directory.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    directory
}

fn own(files: &[(&str, &str)]) -> Templates {
    Templates::load(Some(directory(files).path())).unwrap()
}

fn problems(files: &[(&str, &str)]) -> Vec<String> {
    let directory = directory(files);
    let LoadError(problems) = Templates::load(Some(directory.path())).unwrap_err();
    let prefix = format!("{}/", directory.path().display());
    problems.iter().map(|problem| problem.to_string().replace(&prefix, "")).collect()
}

fn text(templates: &Templates, name: &str, locale: &str, variables: Value) -> Text {
    templates.fill(name, map(variables), at("2027-03-01T08:00:00Z")).unwrap().text(locale).unwrap()
}

#[test]
fn the_built_in_texts() {
    let templates = Templates::load(None).unwrap();
    let medication = |minutes: i32| {
        json!({ "medication": "Metformin", "dosage": "500 mg", "recipient": "Rose", "minutes": minutes,
                "scheduled_time": "2027-03-01T13:30:00Z", "zone": "Europe/Vienna" })
    };
    let appointment = |starts_at: &str, zone: &str, place: &str| {
        json!({ "appointment": "Physiotherapy", "recipient": "Rose", "starts_at": starts_at, "zone": zone,
                "place": place })
    };
    let shift = |starts_at: &str, ends_at: &str, zone: &str| {
        let hours = (at(ends_at) - at(starts_at)).as_seconds_f64() / 3600.0;
        json!({ "recipient": "Rose", "starts_at": starts_at, "ends_at": ends_at, "hours": hours, "zone": zone })
    };
    let refill = |doses: i32| json!({ "medication": "Metformin", "dosage": "500 mg", "recipient": "Rose", "doses": doses, "refill_at": 10 });
    let (today, later) = ("2027-03-01T13:30:00Z", "2027-03-03T13:30:00Z");
    let night = shift("2027-03-01T21:00:00Z", "2027-03-02T05:00:00Z", "Europe/Vienna");
    let unknown = shift("2027-03-01T21:00:00Z", "2027-03-02T05:00:00Z", "?");
    let other_day = shift("2027-03-03T07:00:00Z", "2027-03-03T15:00:00Z", "Europe/Vienna");
    let long = shift("2027-03-01T21:00:00Z", "2027-03-02T21:00:00Z", "UTC");
    let cases = [
        ("reminder.medication", "en", medication(0), "Time to give Metformin (500 mg) to Rose"),
        ("reminder.medication", "en", medication(15), "In 15 min: give Metformin (500 mg) to Rose"),
        ("reminder.medication", "de", medication(0), "Jetzt Metformin (500 mg) an Rose geben"),
        ("reminder.medication", "es", medication(15), "En 15 min: dar Metformin (500 mg) a Rose"),
        ("reminder.medication", "fr", medication(0), "C’est l’heure de donner Metformin (500 mg) à Rose"),
        ("reminder.appointment", "en", appointment(today, "Europe/Vienna", ""), "Physiotherapy for Rose at 14:30"),
        (
            "reminder.appointment",
            "en",
            appointment(later, "UTC", "Main Street 5"),
            "Physiotherapy for Rose on Wed 3 Mar at 13:30 UTC, Main Street 5",
        ),
        (
            "reminder.appointment",
            "de-AT",
            appointment(later, "Europe/Vienna", "Graben 1"),
            "Physiotherapy für Rose am Mi, 3. März um 14:30, Graben 1",
        ),
        (
            "reminder.appointment",
            "es",
            appointment(later, "Europe/Madrid", ""),
            "Physiotherapy de Rose el miércoles 3 de marzo a las 14:30",
        ),
        (
            "reminder.appointment",
            "fr",
            appointment("2027-04-01T12:30:00Z", "Europe/Paris", ""),
            "Physiotherapy pour Rose le jeudi 1er avril à 14:30",
        ),
        ("reminder.shift", "en", night.clone(), "Your shift with Rose is from 22:00 to 06:00"),
        ("reminder.shift", "en", unknown, "Your shift with Rose is from 21:00 to 05:00 UTC"),
        ("reminder.shift", "en", other_day.clone(), "Your shift with Rose is on Wed 3 Mar from 08:00 to 16:00"),
        ("reminder.shift", "en", long.clone(), "Your shift with Rose is from Mon 1 Mar 21:00 to Tue 2 Mar 21:00 UTC"),
        ("reminder.shift", "de", night, "Ihre Schicht bei Rose ist von 22:00 bis 06:00"),
        ("reminder.shift", "es", other_day, "Su turno con Rose es el miércoles 3 de marzo de 08:00 a 16:00"),
        (
            "reminder.shift",
            "fr",
            long,
            "Votre garde auprès de Rose est du lundi 1er mars à 21:00 au mardi 2 mars à 21:00 UTC",
        ),
        ("alert.refill", "en", refill(0), "Metformin (500 mg) for Rose: no doses left"),
        ("alert.refill", "en", refill(1), "Metformin (500 mg) for Rose: 1 dose left"),
        ("alert.refill", "en", refill(5), "Metformin (500 mg) for Rose: 5 doses left"),
        ("alert.refill", "de", refill(5), "Metformin (500 mg) für Rose: noch 5 Dosen"),
        ("alert.refill", "es", refill(1), "Metformin (500 mg) para Rose: queda 1 dosis"),
        ("alert.refill", "fr", refill(0), "Metformin (500 mg) pour Rose : il ne reste aucune dose"),
    ];
    for (name, locale, variables, expected) in cases {
        assert_eq!(text(&templates, name, locale, variables).body, expected);
    }
    let titles = ["en", "de", "es", "fr"].map(|locale| text(&templates, "alert.refill", locale, refill(5)).title);
    assert_eq!(
        titles,
        ["💊 Refill Needed", "💊 Nachschub nötig", "💊 Hay que reponer", "💊 Renouvellement nécessaire"]
    );
    let summary = templates.summary();
    assert!(summary.ends_with(" built in; in de, en, es, fr"), "{summary}");
}

#[test]
fn the_guide_shows_a_template_that_works_and_all_variables() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/TEMPLATES.md");
    let guide = fs::read_to_string(path).unwrap();
    let block = |number: usize| guide.split("```\n").nth(number).unwrap();
    let templates = own(&[("en/visit.moved.txt", block(1))]);
    let command = guide.split("--json '").nth(1).unwrap().split("}'").next().unwrap();
    let job: Value = serde_json::from_str(&format!("{command}}}")).unwrap();
    let Text { title, body } = text(&templates, job["template"].as_str().unwrap(), "en", job["variables"].clone());
    assert_eq!(title, "Dr. Gruber comes at another time");
    assert_eq!(body, "The visit to Rose begins on Wed 3 Mar at 14:30.");

    for (name, named) in templates.0.named.iter().filter(|(_, named)| named.built_in) {
        let Some(row) = guide.lines().find(|line| line.starts_with(&format!("| `{name}` |"))) else { continue };
        let words: BTreeSet<String> = row.split('`').skip(3).step_by(2).map(str::to_owned).collect();
        assert_eq!(words, named.variables, "{name}");
    }
}

#[test]
fn the_nearest_language_that_there_is_is_taken() {
    let templates = own(&[
        ("de-AT/alert.refill.txt", "title: Nachschub\n\nServus"),
        ("pt/only.txt", "title: Só\n"),
        ("sv/only.txt", "title: Bara\n"),
    ]);
    let variables = json!({ "medication": "", "dosage": "", "recipient": "", "doses": 5, "refill_at": 10 });
    let refill = templates.fill("alert.refill", map(variables), at("2027-03-01T08:00:00Z")).unwrap();
    let cases = [
        ("de", "de"),
        ("de-DE", "de"),
        ("de-AT", "de-AT"),
        ("DE_at.UTF-8", "de-AT"),
        ("de-AT-1996", "de-AT"),
        ("fr-CA", "fr"),
        ("pt", "en"),
        ("zh-Hant-TW", "en"),
        ("", "en"),
        ("-", "en"),
        ("--", "en"),
        ("ü\u{0}", "en"),
    ];
    for (wanted, expected) in cases {
        assert_eq!(refill.locale_for(wanted), expected, "{wanted:?}");
    }
    let only = templates.fill("only", Map::new(), at("2027-03-01T08:00:00Z")).unwrap();
    assert_eq!(["sv", "de", ""].map(|wanted| only.locale_for(wanted)), ["sv", "pt", "pt"]);
    let expected = " built in (1 replaced or added to), 1 of your own (only); in de, de-AT, en, es, fr, pt, sv";
    assert!(templates.summary().ends_with(expected), "{}", templates.summary());
}

#[test]
fn a_file_of_your_own_replaces_one_or_adds_one() {
    let templates = own(&[
        ("en/alert.refill.txt", "\u{feff}title: {{ medication | upper }}!\r\n\r\nOnly {{ doses }}\r\nleft\r\n\r\n"),
        (
            "en/welcome.txt",
            "# To newcomers.\ntitle: Welcome\nexample: {\"who\": [\"Ana\"], \"note\": null}\n\nHello\n{% for one in who %}\n{{ loop.index }}. {{ one }}\n{% endfor %}\n{{ note }}\n",
        ),
        ("README.md", "not a template"),
        (".hidden/x", "not one either"),
        ("en/.hidden", "nor this"),
    ]);
    let variables = json!({ "medication": "Ramipril", "dosage": "", "recipient": "", "doses": 5, "refill_at": 10 });
    let text_of = |name: &str, variables: &Value| text(&templates, name, "en", variables.clone());
    assert_eq!(text_of("alert.refill", &variables), Text { title: "RAMIPRIL!".into(), body: "Only 5\nleft".into() });
    assert_eq!(text(&templates, "alert.refill", "de", variables).title, "💊 Nachschub nötig");
    let more = json!({ "who": ["Ana", "Ben"], "note": null, "unknown": 1 });
    assert_eq!(text_of("welcome", &more).body, "Hello\n1. Ana\n2. Ben");
}

#[test]
fn a_job_that_does_not_fit_is_told_why() {
    let templates = own(&[("en/welcome.txt", "title: Hello {{ name }}\nexample: {\"name\": \"Ana\"}\n")]);
    let fill = |name: &str, variables: Value| {
        templates.fill(name, map(variables), at("2027-03-01T08:00:00Z")).err().unwrap().to_string()
    };
    let unknown = fill("welcom", json!({}));
    let expected = "there is no template `welcom` (did you mean `welcome`?); this worker has alert.refill, ";
    assert!(unknown.starts_with(expected) && unknown.ends_with(", welcome"), "{unknown}");
    assert_eq!(
        fill("welcome", json!({ "nam": "Ana" })),
        "the template `welcome` needs the variable `name`, which the job does not give"
    );
}

#[test]
fn what_fails_with_real_values_is_told_without_them() {
    let templates = own(&[(
        "en/odd.txt",
        "title: x{{ name | replace('x', '') if empty else 'x' }}\nexample: {\"name\": \"x\", \"list\": [1], \"empty\": false}\n\n\
         line 4\n{{ list | sum }} {{ name | round if name != 'x' }}",
    )]);
    let failed = |variables: Value| {
        let filled = templates.fill("odd", map(variables), at("2027-03-01T08:00:00Z")).unwrap();
        filled.text("en").unwrap_err()
    };
    let broken = failed(json!({ "name": "Rose", "list": [1], "empty": false }));
    assert_eq!((broken.line, broken.what.as_str()), (5, "invalid operation"));
    assert!(broken.place.ends_with("en/odd.txt"));
    let broken = failed(json!({ "name": "Rose", "list": ["Rose", {}], "empty": false }));
    assert!(!broken.to_string().contains("Rose"), "{broken}");
    let blank = own(&[("en/blank.txt", "title: \u{7}{{ name }}\nexample: {\"name\": \"x\"}\n")]);
    let filled = blank.fill("blank", map(json!({ "name": " \n" })), at("2027-03-01T08:00:00Z")).unwrap();
    let broken = filled.text("en").unwrap_err();
    assert!(broken.to_string().ends_with("en/blank.txt:1: the title comes out empty"), "{broken}");
}

#[test]
fn each_mistake_in_a_file_is_told_with_its_line() {
    let cases = [
        ("en/a.txt", "body only", "en/a.txt:1: expected `title: …`"),
        ("en/a.txt", "\ntitle: x\n", "en/a.txt:1: there is no line `title: …`"),
        ("en/a.txt", "title:\n", "en/a.txt:1: the title is empty"),
        ("en/a.txt", "title: x\ntitle: y\n", "en/a.txt:2: there is a title already"),
        ("en/a.txt", "title: x\nsubject: y\n", "en/a.txt:2: expected `title: …`"),
        ("en/a.txt", "title: x\nexample: {\"a\":\n", "en/a.txt:2: the example is not a JSON object"),
        ("en/a.txt", "title: x\nexample: [1]\n", "en/a.txt:2: the example is not a JSON object"),
        ("en/a.txt", "title: x\nexample: {\"a b\": 1}\n", "en/a.txt:2: the variable \"a b\" must be a word"),
        ("en/a.txt", "title: x\nexample: {\"now\": 1}\n", "en/a.txt:2: the variable `now` is set by Carebell"),
        (
            "en/a.txt",
            "title: x\nexample: {\"a\": 1}\nexample: {\"b\": 1}\n",
            "en/a.txt:3: all examples of `a` must have the same variables; this one differs in a, b",
        ),
        ("en/a.txt", "title: {{ x\n", "en/a.txt:1: syntax error"),
        ("en/a.txt", "# c\ntitle: x\n\nline 4\n{% if %}\n", "en/a.txt:5: syntax error"),
        ("en/a.txt", "title: x\n\n{{ name }}\n", "en/a.txt:3: unknown variable `name`: no file of this template has"),
        (
            "de/reminder.shift.txt",
            "title: Schicht\n\nmit\n{{ recipent }}",
            "de/reminder.shift.txt:4: unknown variable `recipent` (did you mean `recipient`?); there are ends_at, hours",
        ),
        (
            "de/alert.refill.txt",
            "title: x\n\n{% if doses < 0 %}{{ nonsense }}{% endif %}",
            "de/alert.refill.txt:3: unknown variable `nonsense`; there are dosage, doses, medication",
        ),
        (
            "en/alert.refill.txt",
            "title: x\nexample: {\"doses\": 1}\n",
            "en/alert.refill.txt:2: all examples of `alert.refill` must have the same variables; this one differs in dosage",
        ),
        (
            "en/a.txt",
            "title: x\n\n{% if now == 'x' %}{{ now | uper }}{% endif %}",
            "en/a.txt:3: there is no filter `uper`",
        ),
        ("en/a.txt", "title: x\n\n{% if now == 'x' and now is old %}{% endif %}", "en/a.txt:3: there is no test `old`"),
        ("en/a.txt", "title: x\n\n{{ debug() }}", "en/a.txt:3: unknown variable `debug`"),
        (
            "en/a.txt",
            "title: {{ now | local('UTC', '%!') }}\n",
            "en/a.txt:1: with example 1 of the template: the pattern",
        ),
        (
            "en/a.txt",
            "title: x\nexample: {\"a\": 1}\nexample: {\"a\": {}}\n\n\n{{ a + 1 }}",
            "en/a.txt:6: with example 2 of the template: invalid operation",
        ),
        (
            "en/a.txt",
            "title: x\nexample: {\"a\": {\"b\": 1}}\nexample: {\"a\": {\"c\": 1}}\n\n{{ a.b }}",
            "en/a.txt:5: with example 2 of the template: undefined value",
        ),
        ("en/a.txt", "title: {{ '' }}\n", "en/a.txt:1: with example 1 of the template: the title comes out empty"),
        ("en/a.md", "title: x\n", "en/a.md: must be named <template>.txt"),
        ("en/A.txt", "title: x\n", "en/A.txt: must be named <template>.txt"),
        ("a.txt", "title: x\n", "a.txt: must be in the directory of its locale"),
        ("english/a.txt", "title: x\n", "english: must be named as one locale"),
        ("en_US/a.txt", "title: x\n", "en_US: must be named as one locale"),
    ];
    for (path, file, expected) in cases {
        let found = problems(&[(path, file)]);
        assert!(found.len() == 1 && found[0].starts_with(expected), "{expected}\n{found:#?}");
    }
    let both = problems(&[("en/a.txt", "x\n"), ("en/b.txt", "title: x\n\n{{ y }}{{ z | no }}")]);
    assert_eq!(both.len(), 4, "all are told at once: {both:#?}");
    let error = Templates::load(Some(Path::new("/no/such/place"))).unwrap_err().to_string();
    assert!(error.starts_with("/no/such/place: cannot be read"), "{error}");
    let directory = directory(&[]);
    fs::create_dir(directory.path().join("en")).unwrap();
    fs::write(directory.path().join("en/a.txt"), b"title: \xff\n").unwrap();
    let error = Templates::load(Some(directory.path())).unwrap_err().to_string();
    assert!(error.contains("en/a.txt: cannot be read"), "{error}");
}

#[test]
fn texts_keep_the_limits_of_a_notification() {
    let file = "title: {{ name }}\nexample: {\"name\": \"x\"}\n\n{{ name }}{{ name }}";
    let templates = own(&[("en/long.txt", file)]);
    let Text { title, body } = text(&templates, "long", "en", json!({ "name": "ü".repeat(1001) }));
    assert_eq!((title.chars().count(), body.chars().count()), (LONGEST_TITLE, LONGEST_BODY));
    assert!(title.ends_with("ü…") && body.ends_with("ü…"));
}

#[test]
fn what_people_wrote_comes_through_as_it_is() {
    let file = "title: {{ name }}\nexample: {\"name\": \"x\"}\n\n<{{ name }}>";
    let templates = own(&[("en/plain.txt", file)]);
    let name = "<b>\"Rose\" & 'Ben'</b> {{ 7 * 7 }} {% raw %} {# c #} \\n\nsecond\u{1b}[0m\r\nthird";
    let Text { title, body } = text(&templates, "plain", "en", json!({ "name": name }));
    assert_eq!(title, "<b>\"Rose\" & 'Ben'</b> {{ 7 * 7 }} {% raw %} {# c #} \\n second [0m third");
    assert_eq!(body, format!("<{}>", name.replace('\u{1b}', " ").replace("\r\n", "\n")));
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        "[{}%#a-z_|.\"' \\n-]{0,40}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(any::<String>(), inner, 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn no_variables_and_no_locale_make_a_built_in_template_panic(
        values in prop::collection::vec(any_json(), 8),
        locale in any::<String>(),
    ) {
        static BUILT_IN: LazyLock<Templates> = LazyLock::new(|| Templates::load(None).unwrap());
        for (name, named) in &BUILT_IN.0.named {
            let variables = named.variables.iter().cloned().zip(values.iter().cloned()).collect();
            let filled = BUILT_IN.fill(name, variables, at("2027-03-01T08:00:00Z")).unwrap();
            for locale in ["en", "de", "es", "fr", &locale] {
                if let Ok(Text { title, body }) = filled.text(locale) {
                    prop_assert!((1..=LONGEST_TITLE).contains(&title.chars().count()));
                    prop_assert!(body.chars().count() <= LONGEST_BODY);
                    prop_assert!(!title.contains(char::is_control));
                }
            }
        }
    }

    #[test]
    fn no_value_is_read_as_a_template(value in "[{}%#a-z0-9_|.\"'<>&;() -]{0,60}") {
        let file = "title: t\nexample: {\"value\": \"x\"}\n\n[{{ value }}]";
        let templates = own(&[("en/plain.txt", file)]);
        let body = text(&templates, "plain", "en", json!({ "value": value.clone() })).body;
        prop_assert_eq!(body, format!("[{value}]"));
    }

    #[test]
    fn no_file_makes_the_start_panic(text in any::<String>(), tags in "[{}%#a-z_|.\"':= \\n-]{0,60}") {
        for file in [text, format!("title: {tags}\nexample: {{\"a\": 1}}\n\n{tags}")] {
            let directory = directory(&[("en/any.txt", &file)]);
            let _ = Templates::load(Some(directory.path()));
        }
    }
}
