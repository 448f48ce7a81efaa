//! ClickHouse's Native format: a block is column after column, each with its name and type. Values are converted to the
//! table's types on their way in.

/// Rows of one table, by column.
pub(super) struct Block {
    rows: usize,
    names: Vec<&'static str>,
    columns: Vec<u8>,
}

impl Block {
    /// A block of this many rows; every column added must have as many values.
    pub(super) fn of(rows: usize) -> Self {
        Self { rows, names: Vec::new(), columns: Vec::new() }
    }

    pub(super) fn text<'a>(mut self, name: &'static str, values: impl Iterator<Item = &'a str>) -> Self {
        self.begin(name, "String");
        values.for_each(|value| text(&mut self.columns, value));
        self
    }

    pub(super) fn u8(self, name: &'static str, values: impl Iterator<Item = u8>) -> Self {
        self.fixed(name, "UInt8", values.map(u8::to_le_bytes))
    }

    pub(super) fn u16(self, name: &'static str, values: impl Iterator<Item = u16>) -> Self {
        self.fixed(name, "UInt16", values.map(u16::to_le_bytes))
    }

    pub(super) fn u32(self, name: &'static str, values: impl Iterator<Item = u32>) -> Self {
        self.fixed(name, "UInt32", values.map(u32::to_le_bytes))
    }

    pub(super) fn u64(self, name: &'static str, values: impl Iterator<Item = u64>) -> Self {
        self.fixed(name, "UInt64", values.map(u64::to_le_bytes))
    }

    pub(super) fn u128(self, name: &'static str, values: impl Iterator<Item = u128>) -> Self {
        self.fixed(name, "UInt128", values.map(u128::to_le_bytes))
    }

    pub(super) fn bytes16(self, name: &'static str, values: impl Iterator<Item = [u8; 16]>) -> Self {
        self.fixed(name, "FixedString(16)", values)
    }

    /// Unix seconds.
    pub(super) fn time(self, name: &'static str, values: impl Iterator<Item = u32>) -> Self {
        self.fixed(name, "DateTime('UTC')", values.map(u32::to_le_bytes))
    }

    pub(super) fn u64_lists<'a>(mut self, name: &'static str, values: impl Iterator<Item = &'a [u64]> + Clone) -> Self {
        self.begin(name, "Array(UInt64)");
        self.ends(values.clone().map(<[u64]>::len));
        values.flatten().for_each(|value| self.columns.extend(value.to_le_bytes()));
        self
    }

    pub(super) fn u32_lists<'a>(mut self, name: &'static str, values: impl Iterator<Item = &'a [u32]> + Clone) -> Self {
        self.begin(name, "Array(UInt32)");
        self.ends(values.clone().map(<[u32]>::len));
        values.flatten().for_each(|value| self.columns.extend(value.to_le_bytes()));
        self
    }

    pub(super) fn text_lists<'a>(
        mut self,
        name: &'static str,
        values: impl Iterator<Item = &'a [String]> + Clone,
    ) -> Self {
        self.begin(name, "Array(String)");
        self.ends(values.clone().map(<[String]>::len));
        values.flatten().for_each(|value| text(&mut self.columns, value));
        self
    }

    /// The names of its columns, as an INSERT lists them.
    pub(super) fn names(&self) -> String {
        self.names.join(", ")
    }

    pub(super) fn rows(&self) -> u64 {
        self.rows as u64
    }

    /// The bytes that travel.
    pub(super) fn encode(self) -> Vec<u8> {
        let mut block = Vec::with_capacity(self.columns.len() + 8);
        length(&mut block, self.names.len());
        length(&mut block, self.rows);
        block.extend(self.columns);
        block
    }

    fn fixed<const N: usize>(mut self, name: &'static str, kind: &str, values: impl Iterator<Item = [u8; N]>) -> Self {
        self.begin(name, kind);
        values.for_each(|value| self.columns.extend(value));
        self
    }

    fn begin(&mut self, name: &'static str, kind: &str) {
        self.names.push(name);
        text(&mut self.columns, name);
        text(&mut self.columns, kind);
    }

    /// Lists travel as where each ends among all values, then the values.
    fn ends(&mut self, lengths: impl Iterator<Item = usize>) {
        let mut end = 0;
        for length in lengths {
            end += length as u64;
            self.columns.extend(end.to_le_bytes());
        }
    }
}

fn text(into: &mut Vec<u8>, value: &str) {
    length(into, value.len());
    into.extend(value.as_bytes());
}

/// LEB128.
fn length(into: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        into.push(value as u8 | 0x80);
        value >>= 7;
    }
    into.push(value as u8);
}
