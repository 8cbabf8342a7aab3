//! Published sets of questions: which fields they have, and the prompts that lm-evaluation-harness makes of them.

use serde_json::Value;

use super::Item;
use crate::{corpus::Record, evaluate::EvaluateError, language::LanguageCode};

/// A format of questions.
pub struct Format {
    /// Its name on the command line and in tables.
    pub name: &'static str,
    /// One line of help.
    pub help: &'static str,
    /// Where it is published: the data set on a Hub that is read unless another is given.
    pub published: &'static str,
    /// The language of a data set whose files do not say.
    pub language: Option<&'static str>,
    /// Parts that may be evaluated, the one to take first.
    pub parts: &'static [&'static str],
    /// The prompt, with fields in braces.
    pub context: &'static str,
    /// The continuations, with fields in braces.
    pub continuations: &'static str,
    item: fn(&Fields) -> Result<Item, String>,
}

const LETTERS: [&str; 4] = ["A", "B", "C", "D"];
const ENGLISH: Option<&str> = Some("eng_Latn");

/// Every format.
pub const FORMATS: &[Format] = &[
    Format {
        name: "belebele",
        help: "reading comprehension in 122 languages, four answers",
        published: "facebook/belebele",
        language: None,
        parts: &["test"],
        context: "P: {flores_passage}\nQ: {question}\nA: {mc_answer1}\nB: {mc_answer2}\nC: {mc_answer3}\nD: {mc_answer4}\nAnswer:",
        continuations: " A | B | C | D",
        item: belebele,
    },
    Format {
        name: "sib200",
        help: "topics of sentences in 205 languages, seven of them",
        published: "Davlan/sib200",
        language: None,
        parts: &["test"],
        context: "Given the categories science/technology, travel, politics, sports, health, entertainment, or geography; what category does the text: '{text}' belong to: \n\n",
        continuations: " science/technology | travel | politics | sports | health | entertainment | geography",
        item: sib200,
    },
    Format {
        name: "mmlu",
        help: "questions of exams in English, four answers",
        published: "cais/mmlu/all",
        language: ENGLISH,
        parts: &["test"],
        context: "{question}\nA. {choices[0]}\nB. {choices[1]}\nC. {choices[2]}\nD. {choices[3]}\nAnswer:",
        continuations: " A | B | C | D",
        item: mmlu,
    },
    Format {
        name: "global-mmlu",
        help: "the same in 42 languages",
        published: "CohereLabs/Global-MMLU",
        language: None,
        parts: &["test"],
        context: "{question}\nA. {option_a}\nB. {option_b}\nC. {option_c}\nD. {option_d}\nAnswer:",
        continuations: " A | B | C | D",
        item: global_mmlu,
    },
    Format {
        name: "arc",
        help: "questions of science for schools in English",
        published: "allenai/ai2_arc/ARC-Challenge",
        language: ENGLISH,
        parts: &["test"],
        context: "Question: {question}\nAnswer:",
        continuations: " {choices.text}",
        item: arc,
    },
    Format {
        name: "hellaswag",
        help: "how a description goes on, in English, four endings",
        published: "Rowan/hellaswag",
        language: ENGLISH,
        parts: &["validation"],
        context: "{activity_label}: {ctx_a} {ctx_b}",
        continuations: " {endings}",
        item: hellaswag,
    },
    Format {
        name: "piqa",
        help: "how to do something with things, in English, two ways",
        published: "baber/piqa",
        language: ENGLISH,
        parts: &["validation"],
        context: "Question: {goal}\nAnswer:",
        continuations: " {sol1} | {sol2}",
        item: piqa,
    },
    Format {
        name: "xnli",
        help: "whether one sentence follows from another, in 15 languages",
        published: "facebook/xnli",
        language: None,
        parts: &["test", "validation"],
        context: "",
        continuations: " {premise}, RIGHT? YES, {hypothesis} | {premise}, RIGHT? ALSO, {hypothesis} | {premise}, RIGHT? NO, {hypothesis}, in the words of the language",
        item: xnli,
    },
];

impl Format {
    /// The item of a record.
    ///
    /// # Errors
    /// When a field is missing or says what cannot be; the error names the file and the row.
    pub fn item(&self, record: &Record, language: LanguageCode) -> Result<Item, EvaluateError> {
        let fields = Fields { record, language };
        let item = (self.item)(&fields).and_then(checked);
        item.map_err(|problem| EvaluateError::Item {
            path: record.path.clone(),
            row: record.row,
            problem: format!("{problem}; a row of {} as it is published is wanted", self.name),
        })
    }
}

/// An item that can be asked.
fn checked(item: Item) -> Result<Item, String> {
    match item.choices.iter().position(|choice| choice.trim().is_empty()) {
        _ if item.choices.len() < 2 => Err(format!("has {} answers to choose from", item.choices.len())),
        Some(empty) => Err(format!("answer {} is empty", empty + 1)),
        None if item.answer >= item.choices.len() => {
            Err(format!("says that answer {} is right, and has {}", item.answer + 1, item.choices.len()))
        }
        None => Ok(item),
    }
}

/// The fields of a record, asked for by name.
struct Fields<'a> {
    record: &'a Record,
    language: LanguageCode,
}

impl Fields<'_> {
    fn value(&self, name: &str) -> Result<&Value, String> {
        let found = || self.record.fields.keys().take(12).cloned().collect::<Vec<_>>().join(", ");
        let value = self.record.fields.get(name).ok_or_else(|| format!("has no field `{name}`, but {}", found()))?;
        if value.is_null() { Err(format!("field `{name}` is null")) } else { Ok(value) }
    }

    fn text(&self, name: &str) -> Result<&str, String> {
        let value = self.value(name)?;
        value.as_str().ok_or_else(|| format!("field `{name}` is {value}, and text is wanted"))
    }

    /// A whole number, in digits or in text.
    fn number(&self, name: &str) -> Result<usize, String> {
        let value = self.value(name)?;
        let number = value.as_u64().or_else(|| value.as_str()?.trim().parse().ok());
        let number = number.and_then(|number| usize::try_from(number).ok());
        number.ok_or_else(|| format!("field `{name}` is {value}, and a whole number is wanted"))
    }

    /// One of four letters.
    fn letter(&self, name: &str) -> Result<usize, String> {
        let letter = self.text(name)?.trim();
        let place = LETTERS.iter().position(|known| *known == letter);
        place.ok_or_else(|| format!("field `{name}` is `{letter}`, and A, B, C or D is wanted"))
    }

    fn texts(&self, name: &str) -> Result<Vec<String>, String> {
        texts(name, self.value(name)?)
    }

    /// What the record is called, or its row.
    fn id(&self, names: &[&str]) -> String {
        let part = |name: &&str| {
            let value = self.record.fields.get(*name)?;
            Some(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
        };
        let parts: Option<Vec<String>> = names.iter().map(part).collect();
        parts.filter(|parts| !parts.is_empty()).map_or_else(|| self.record.row.to_string(), |parts| parts.join("#"))
    }

    /// An item whose continuations are its choices behind a space.
    fn item(&self, id: &[&str], context: String, choices: Vec<String>, answer: usize) -> Item {
        let continuations = choices.iter().map(|choice| format!(" {choice}")).collect();
        Item { id: self.id(id), context, continuations, choices, answer }
    }

    fn lettered(&self, id: &[&str], context: String, answer: usize) -> Item {
        self.item(id, context, LETTERS.map(str::to_owned).to_vec(), answer)
    }
}

fn texts(name: &str, value: &Value) -> Result<Vec<String>, String> {
    let list = value.as_array().ok_or_else(|| format!("field `{name}` is {value}, and a list of texts is wanted"))?;
    let text = |value: &Value| value.as_str().map(str::to_owned);
    list.iter().map(text).collect::<Option<_>>().ok_or_else(|| format!("field `{name}` holds what is no text"))
}

fn belebele(fields: &Fields) -> Result<Item, String> {
    let answers = ["mc_answer1", "mc_answer2", "mc_answer3", "mc_answer4"].map(|name| fields.text(name));
    let [a, b, c, d] = answers;
    let (a, b, c, d) = (a?, b?, c?, d?);
    if let Some(empty) = [a, b, c, d].iter().position(|answer| answer.trim().is_empty()) {
        return Err(format!("field `mc_answer{}` is empty", empty + 1));
    }
    let (passage, question) = (fields.text("flores_passage")?, fields.text("question")?.trim());
    let number = fields.number("correct_answer_num")?;
    let answer = number.checked_sub(1).filter(|answer| *answer < 4);
    let answer = answer.ok_or_else(|| format!("field `correct_answer_num` is {number}, and 1 to 4 is wanted"))?;
    let context = format!("P: {passage}\nQ: {question}\nA: {a}\nB: {b}\nC: {c}\nD: {d}\nAnswer:");
    Ok(fields.lettered(&["link", "question_number"], context, answer))
}

const TOPICS: [&str; 7] =
    ["science/technology", "travel", "politics", "sports", "health", "entertainment", "geography"];

fn sib200(fields: &Fields) -> Result<Item, String> {
    let (text, category) = (fields.text("text")?, fields.text("category")?.trim());
    let answer = TOPICS.iter().position(|topic| *topic == category);
    let answer = answer
        .ok_or_else(|| format!("field `category` is `{category}`, and one of {} is wanted", TOPICS.join(", ")))?;
    let context = format!(
        "Given the categories science/technology, travel, politics, sports, health, entertainment, or geography; what category does the text: '{text}' belong to: \n\n"
    );
    Ok(fields.item(&["index_id"], context, TOPICS.map(str::to_owned).to_vec(), answer))
}

fn exam(question: &str, [a, b, c, d]: [&str; 4]) -> String {
    format!("{}\nA. {a}\nB. {b}\nC. {c}\nD. {d}\nAnswer:", question.trim())
}

fn mmlu(fields: &Fields) -> Result<Item, String> {
    let choices = fields.texts("choices")?;
    let [a, b, c, d] = choices.as_slice() else {
        return Err(format!("field `choices` holds {} answers, and 4 are wanted", choices.len()));
    };
    let number = fields.number("answer").or_else(|problem| fields.letter("answer").map_err(|_| problem))?;
    if number > 3 {
        return Err(format!("field `answer` is {number}, and 0 to 3 is wanted"));
    }
    let context = exam(fields.text("question")?, [a, b, c, d]);
    Ok(fields.lettered(&[], context, number))
}

fn global_mmlu(fields: &Fields) -> Result<Item, String> {
    let [a, b, c, d] = ["option_a", "option_b", "option_c", "option_d"].map(|name| fields.text(name));
    let context = exam(fields.text("question")?, [a?, b?, c?, d?]);
    Ok(fields.lettered(&["sample_id"], context, fields.letter("answer")?))
}

fn arc(fields: &Fields) -> Result<Item, String> {
    let choices = fields.value("choices")?;
    let part = |name: &str| texts(&format!("choices.{name}"), choices.get(name).unwrap_or(&Value::Null));
    let (texts, labels, key) = (part("text")?, part("label")?, fields.text("answerKey")?.trim());
    let answer = labels.iter().position(|label| label == key);
    let answer =
        answer.ok_or_else(|| format!("field `answerKey` is `{key}`, and one of {} is wanted", labels.join(", ")))?;
    let context = format!("Question: {}\nAnswer:", fields.text("question")?);
    Ok(fields.item(&["id"], context, texts, answer))
}

fn hellaswag(fields: &Fields) -> Result<Item, String> {
    let (label, a, b) = (fields.text("activity_label")?, fields.text("ctx_a")?, fields.text("ctx_b")?);
    let context = without_brackets(&format!("{label}: {a} {}", capitalised(b)));
    let endings = fields.texts("endings")?.iter().map(|ending| without_brackets(ending)).collect();
    Ok(fields.item(&["ind"], context, endings, fields.number("label")?))
}

/// As Python's `str.capitalize`: the first letter large, all others small.
fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|letter| letter.to_uppercase().to_string()).unwrap_or_default();
    first + &letters.as_str().to_lowercase()
}

/// Without the marks that a part of `HellaSwag` has from its source.
fn without_brackets(text: &str) -> String {
    let text = text.trim().replace(" [title]", ". ");
    let mut rest = text.as_str();
    let mut clean = String::new();
    while let Some((before, mark)) = rest.split_once('[') {
        // As the harness' pattern, a mark does not go beyond a line.
        clean.push_str(before);
        if let Some(end) = mark.find(']').filter(|end| !mark[..*end].contains('\n')) {
            rest = &mark[end + 1..];
        } else {
            clean.push('[');
            rest = mark;
        }
    }
    (clean + rest).replace("  ", " ")
}

fn piqa(fields: &Fields) -> Result<Item, String> {
    let choices = vec![fields.text("sol1")?.to_owned(), fields.text("sol2")?.to_owned()];
    let context = format!("Question: {}\nAnswer:", fields.text("goal")?);
    Ok(fields.item(&[], context, choices, fields.number("label")?))
}

/// The words of the prompts: right, yes, also, no.
const XNLI: [(&str, [&str; 4]); 15] = [
    ("arb", ["صحيح", "نعم", "لذا", "رقم"]),
    ("bul", ["правилно", "да", "така", "не"]),
    ("deu", ["richtig", "Ja", "Auch", "Nein"]),
    ("ell", ["σωστός", "Ναί", "Έτσι", "όχι"]),
    ("eng", ["right", "Yes", "Also", "No"]),
    ("spa", ["correcto", "Sí", "Asi que", "No"]),
    ("fra", ["correct", "Oui", "Aussi", "Non"]),
    ("hin", ["सही", "हाँ", "इसलिए", "नहीं"]),
    ("rus", ["правильно", "Да", "Так", "Нет"]),
    ("swh", ["sahihi", "Ndiyo", "Hivyo", "Hapana"]),
    ("tha", ["ถูกต้อง", "ใช่", "ดังนั้น", "ไม่"]),
    ("tur", ["doğru", "Evet", "Böylece", "Hayır"]),
    ("urd", ["صحیح", "جی ہاں", "اس لئے", "نہیں"]),
    ("vie", ["đúng", "Vâng", "Vì vậy", "Không"]),
    ("zho", ["正确", "是的", "所以", "不是的"]),
];

fn xnli(fields: &Fields) -> Result<Item, String> {
    let of_language = XNLI.iter().find(|(code, _)| *code == fields.language.iso639_3());
    let (_, [right, yes, also, no]) = of_language.ok_or_else(|| {
        let known = XNLI.map(|(code, _)| code).join(", ");
        format!("is in {}, and there are words for the prompt in {known} only", fields.language)
    })?;
    let (premise, hypothesis) = (fields.text("premise")?, fields.text("hypothesis")?);
    let choices: Vec<String> =
        [yes, also, no].iter().map(|word| format!("{premise}, {right}? {word}, {hypothesis}")).collect();
    let label = fields.number("label")?;
    if label > 2 {
        return Err(format!("field `label` is {label}, and 0 to 2 is wanted"));
    }
    Ok(fields.item(&[], String::new(), choices, label))
}
