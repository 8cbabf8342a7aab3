//! Text as Python cuts it, which is what the scores are defined by.

/// `str.split()`: at white space as Python has it, which is that of Unicode and four separators of ASCII.
pub fn split(text: &str) -> impl Iterator<Item = &str> {
    text.split(is_space).filter(|word| !word.is_empty())
}

fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// `str.rstrip()`.
pub fn trim_end(text: &str) -> &str {
    text.trim_end_matches(is_space)
}

/// Words with a punctuation mark of ASCII at their end, or else at their beginning, apart: one mark, as chrF++ is published.
pub fn words(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for word in split(text) {
        let (first, last) = (word.chars().next(), word.chars().next_back());
        let is_mark = |c: Option<char>| c.is_some_and(|c| c.is_ascii_punctuation());
        if word.chars().nth(1).is_none() {
            found.push(word.to_owned());
        } else if is_mark(last) {
            let (word, mark) = word.split_at(word.len() - 1);
            found.extend([word.to_owned(), mark.to_owned()]);
        } else if is_mark(first) {
            let (mark, word) = word.split_at(1);
            found.extend([mark.to_owned(), word.to_owned()]);
        } else {
            found.push(word.to_owned());
        }
    }
    found
}
