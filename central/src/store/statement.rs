/// SQL text and its parameters. Text comes from constants and numbers alone; every string that came from outside is bound.
#[derive(Debug, Clone, Default)]
pub(crate) struct Statement {
    text: String,
    parameters: Vec<(String, String)>,
}

impl Statement {
    pub(crate) fn new(text: &str) -> Self {
        Self { text: text.to_owned(), parameters: Vec::new() }
    }

    /// Appends text.
    pub(crate) fn push(&mut self, text: &str) -> &mut Self {
        self.text.push_str(text);
        self
    }

    /// Appends a string as a parameter.
    pub(crate) fn bind(&mut self, value: &str) -> &mut Self {
        let placeholder = self.string(value);
        self.push(&placeholder)
    }

    /// Adds a string; its placeholder can appear in the text any number of times.
    pub(crate) fn string(&mut self, value: &str) -> String {
        self.parameter("String", &escape(value))
    }

    /// Puts text before what is there.
    pub(crate) fn after(mut self, text: &str) -> Self {
        self.text.insert_str(0, text);
        self
    }

    /// Adds an array of numbers; its placeholder can appear in the text any number of times.
    pub(crate) fn numbers(&mut self, values: &[u32]) -> String {
        let list: Vec<String> = values.iter().map(u32::to_string).collect();
        self.parameter("Array(UInt32)", &format!("[{}]", list.join(",")))
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn parameters(&self) -> &[(String, String)] {
        &self.parameters
    }

    /// What tells a reader to end: no question has an empty text.
    pub(super) fn stop() -> Self {
        Self::default()
    }

    pub(super) fn is_stop(&self) -> bool {
        self.text.is_empty()
    }

    fn parameter(&mut self, kind: &str, value: &str) -> String {
        let name = format!("p{}", self.parameters.len());
        let placeholder = format!("{{{name}:{kind}}}");
        self.parameters.push((name, value.to_owned()));
        placeholder
    }
}

/// The engine reads a parameter as an escaped text field: it ends at a bare tab or line end.
fn escape(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for character in value.chars() {
        match character {
            '\\' => escaped.push_str("\\\\"),
            '\t' => escaped.push_str("\\t"),
            '\n' => escaped.push_str("\\n"),
            '\r' => escaped.push_str("\\r"),
            '\0' => escaped.push_str("\\0"),
            other => escaped.push(other),
        }
    }
    escaped
}
