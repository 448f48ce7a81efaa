//! The C interface of libchdb. A connection belongs to one thread at a time; the engine behind all connections of a
//! process is one, on one path.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fs::File;
use std::mem::ManuallyDrop;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex};

use super::native::Block;
use super::{Statement, StoreError};

/// Answers come as one JSON array a row.
const FORMAT: &str = "JSONCompactEachRow";

type Handle = *mut c_void;
type Texts = *const *const c_char;
type Lengths = *const usize;

/// The functions of libchdb that are used. They stay loaded until the process ends: the engine's threads outlive the
/// last connection.
pub(super) struct Library {
    connect: unsafe extern "C" fn(c_int, *const *const c_char) -> *mut Handle,
    close: unsafe extern "C" fn(*mut Handle),
    query: unsafe extern "C" fn(
        Handle,
        *const c_char,
        usize,
        *const c_char,
        usize,
        Texts,
        Lengths,
        Texts,
        Lengths,
        usize,
    ) -> Handle,
    result_buffer: unsafe extern "C" fn(Handle) -> *const u8,
    result_length: unsafe extern "C" fn(Handle) -> usize,
    result_error: unsafe extern "C" fn(Handle) -> *const c_char,
    result_rows_written: unsafe extern "C" fn(Handle) -> u64,
    result_destroy: unsafe extern "C" fn(Handle),
    insert: unsafe extern "C" fn(Handle, *const c_char, usize, *const c_char, usize) -> Handle,
    insert_append: unsafe extern "C" fn(Handle, *const u8, usize) -> c_int,
    insert_done: unsafe extern "C" fn(Handle) -> Handle,
    insert_error: unsafe extern "C" fn(Handle) -> *const c_char,
    insert_destroy: unsafe extern "C" fn(Handle),
}

impl Library {
    /// Loads the library once a process. Its signal handlers stay off: a crash is for the supervisor to see, at once.
    pub(super) fn load(path: &Path) -> Result<&'static Self, StoreError> {
        static LOADED: Mutex<Option<&'static Library>> = Mutex::new(None);
        let mut loaded = LOADED.lock().map_err(|_| StoreError::Closed)?;
        if let Some(library) = *loaded {
            return Ok(library);
        }
        // SAFETY: the file is libchdb (its hash was verified), whose initialisers expect nothing of the process. The
        // signatures are those of its header, and it is never unloaded.
        let library = unsafe {
            let file = ManuallyDrop::new(libloading::Library::new(path)?);
            let set_signal_handlers: unsafe extern "C" fn(c_int) = *file.get(b"chdb_set_signal_handlers_enabled\0")?;
            set_signal_handlers(0);
            Self {
                connect: *file.get(b"chdb_connect\0")?,
                close: *file.get(b"chdb_close_conn\0")?,
                query: *file.get(b"chdb_query_with_params_n\0")?,
                result_buffer: *file.get(b"chdb_result_buffer\0")?,
                result_length: *file.get(b"chdb_result_length\0")?,
                result_error: *file.get(b"chdb_result_error\0")?,
                result_rows_written: *file.get(b"chdb_result_rows_written\0")?,
                result_destroy: *file.get(b"chdb_destroy_query_result\0")?,
                insert: *file.get(b"chdb_stream_insert_n\0")?,
                insert_append: *file.get(b"chdb_stream_append\0")?,
                insert_done: *file.get(b"chdb_stream_done\0")?,
                insert_error: *file.get(b"chdb_stream_insert_error\0")?,
                insert_destroy: *file.get(b"chdb_destroy_insert_stream\0")?,
            }
        };
        Ok(loaded.insert(Box::leak(Box::new(library))))
    }
}

/// A session with the engine: its settings and its place in a streaming insert are its own.
pub(super) struct Connection {
    library: &'static Library,
    /// What the library frees when it closes; the session itself is behind it.
    handle: NonNull<Handle>,
    /// The lock on the folder, held until the last connection is closed.
    _lock: Arc<File>,
}

// SAFETY: the library ties nothing of a connection to the thread that made it; `&mut self` keeps it to one at a time.
unsafe impl Send for Connection {}

impl Connection {
    /// Starts the engine on a folder, or joins the one that runs there.
    pub(super) fn open(
        library: &'static Library,
        folder: &Path,
        lock: Arc<File>,
        memory_max_bytes: u64,
    ) -> Result<Self, StoreError> {
        // Marks are what a point query reads first: an eighth of the memory holds those of a billion rows.
        let arguments = [
            "clickhouse".to_owned(),
            format!("--path={}", folder.display()),
            "--".to_owned(),
            format!("--max_server_memory_usage={memory_max_bytes}"),
            format!("--mark_cache_size={}", memory_max_bytes / 8),
            format!("--index_mark_cache_size={}", memory_max_bytes / 16),
        ];
        let arguments: Result<Vec<CString>, _> = arguments.into_iter().map(CString::new).collect();
        let arguments = arguments.map_err(|_| StoreError::Open(folder.to_owned()))?;
        let pointers: Vec<*const c_char> = arguments.iter().map(|argument| argument.as_ptr()).collect();
        // SAFETY: as many arguments as the count says, each ended by NUL, alive during the call.
        let handle = unsafe { (library.connect)(pointers.len() as c_int, pointers.as_ptr()) };
        let handle = NonNull::new(handle).ok_or_else(|| StoreError::Open(folder.to_owned()))?;
        let mut connection = Self { library, handle, _lock: lock };
        connection.execute(&Statement::new(&format!(
            "SET output_format_json_quote_64bit_integers = 0, do_not_merge_across_partitions_select_final = 1, \
             async_insert = 0, max_partitions_per_insert_block = 0, max_memory_usage = {}",
            memory_max_bytes / 2
        )))?;
        Ok(connection)
    }

    /// Runs a statement whose answer does not matter.
    pub(super) fn execute(&mut self, statement: &Statement) -> Result<(), StoreError> {
        self.answer(statement).map(drop)
    }

    /// Runs a question and reads its rows.
    pub(super) fn rows(&mut self, statement: &Statement) -> Result<Vec<Vec<serde_json::Value>>, StoreError> {
        let answer = self.answer(statement)?;
        let rows: Result<Vec<_>, _> = serde_json::Deserializer::from_slice(answer.bytes()).into_iter().collect();
        rows.map_err(|error| StoreError::unexpected(&format!("rows that are not JSON: {error}")))
    }

    /// Streams blocks into a table and compares what was written with what was sent. Data never travels inside a
    /// statement: the engine would run what follows the first blank line.
    pub(super) fn insert(
        &mut self,
        table: &'static str,
        blocks: impl IntoIterator<Item = Block>,
    ) -> Result<(), StoreError> {
        let mut blocks = blocks.into_iter().peekable();
        let Some(first) = blocks.peek() else { return Ok(()) };
        let statement = format!("INSERT INTO {table} ({})", first.names());
        let mut stream = InsertStream::begin(self, &statement)?;
        let mut sent = 0;
        for block in blocks {
            sent += block.rows();
            stream.append(&block.encode())?;
        }
        match stream.finish()? {
            written if written == sent => Ok(()),
            written => Err(StoreError::RowsLost { table, sent, written }),
        }
    }

    fn answer(&mut self, statement: &Statement) -> Result<Answer<'_>, StoreError> {
        let (text, parameters) = (statement.text(), statement.parameters());
        let pointers = |of: fn(&(String, String)) -> &str| -> (Vec<*const c_char>, Vec<usize>) {
            parameters.iter().map(of).map(|text| (text.as_ptr().cast(), text.len())).unzip()
        };
        let (names, name_lengths) = pointers(|(name, _)| name);
        let (values, value_lengths) = pointers(|(_, value)| value);
        // SAFETY: every pointer goes with its length and lives until the call returns; the session is open.
        let raw = unsafe {
            (self.library.query)(
                self.session(),
                text.as_ptr().cast(),
                text.len(),
                FORMAT.as_ptr().cast(),
                FORMAT.len(),
                names.as_ptr(),
                name_lengths.as_ptr(),
                values.as_ptr(),
                value_lengths.as_ptr(),
                parameters.len(),
            )
        };
        Answer::checked(self.library, raw)
    }

    fn session(&self) -> Handle {
        // SAFETY: the library set it when it connected and clears it only when it closes, in `drop`.
        unsafe { *self.handle.as_ptr() }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // SAFETY: open until here, and nothing that borrows it is left.
        unsafe { (self.library.close)(self.handle.as_ptr()) }
    }
}

/// What a statement answered, freed on drop.
struct Answer<'a> {
    library: &'a Library,
    raw: Handle,
}

impl<'a> Answer<'a> {
    /// Takes ownership; an answer that carries an error becomes that error.
    fn checked(library: &'a Library, raw: Handle) -> Result<Self, StoreError> {
        if raw.is_null() {
            return Err(StoreError::unexpected("no answer"));
        }
        let answer = Self { library, raw };
        // SAFETY: the answer is alive; the text belongs to it and is copied.
        match unsafe { text((library.result_error)(raw)) } {
            Some(message) => Err(engine_error(message)),
            None => Ok(answer),
        }
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: the answer is alive, and buffer and length belong together.
        unsafe {
            let buffer = (self.library.result_buffer)(self.raw);
            if buffer.is_null() {
                return &[];
            }
            std::slice::from_raw_parts(buffer, (self.library.result_length)(self.raw))
        }
    }

    fn rows_written(&self) -> u64 {
        // SAFETY: the answer is alive.
        unsafe { (self.library.result_rows_written)(self.raw) }
    }
}

impl Drop for Answer<'_> {
    fn drop(&mut self) {
        // SAFETY: ours, and freed nowhere else.
        unsafe { (self.library.result_destroy)(self.raw) }
    }
}

/// An insert under way. Dropped before it is finished it is cancelled.
struct InsertStream<'a> {
    library: &'a Library,
    raw: Handle,
}

impl<'a> InsertStream<'a> {
    fn begin(connection: &'a mut Connection, statement: &str) -> Result<Self, StoreError> {
        let library = connection.library;
        let format = "Native";
        // SAFETY: pointers with their lengths, alive during the call; the session is open, and borrowed for as long as
        // the stream lives.
        let raw = unsafe {
            (library.insert)(
                connection.session(),
                statement.as_ptr().cast(),
                statement.len(),
                format.as_ptr().cast(),
                format.len(),
            )
        };
        if raw.is_null() {
            return Err(StoreError::unexpected("no insert stream"));
        }
        let stream = Self { library, raw };
        stream.error().map_or(Ok(stream), Err)
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        // SAFETY: the stream is open; the bytes are copied or used before the call returns.
        let state = unsafe { (self.library.insert_append)(self.raw, bytes.as_ptr(), bytes.len()) };
        match state {
            0 => Ok(()),
            _ => Err(self.error().unwrap_or_else(|| StoreError::unexpected("an insert that ended early"))),
        }
    }

    /// Commits; returns the rows written.
    fn finish(self) -> Result<u64, StoreError> {
        // SAFETY: the stream is open; finishing leaves the handle to be destroyed on drop.
        let raw = unsafe { (self.library.insert_done)(self.raw) };
        Answer::checked(self.library, raw).map(|answer| answer.rows_written())
    }

    fn error(&self) -> Option<StoreError> {
        // SAFETY: the stream is alive; the text belongs to it and is copied.
        unsafe { text((self.library.insert_error)(self.raw)) }.map(engine_error)
    }
}

impl Drop for InsertStream<'_> {
    fn drop(&mut self) {
        // SAFETY: ours, and freed nowhere else.
        unsafe { (self.library.insert_destroy)(self.raw) }
    }
}

/// # Safety
/// `raw` is null or a text ended by NUL.
unsafe fn text(raw: *const c_char) -> Option<String> {
    // SAFETY: the caller's.
    (!raw.is_null()).then(|| unsafe { CStr::from_ptr(raw) }.to_string_lossy().into_owned())
}

/// "Code: 62. DB::Exception: …"
fn engine_error(message: String) -> StoreError {
    let digits = message.split("Code: ").nth(1).and_then(|rest| rest.split('.').next());
    StoreError::Engine { code: digits.and_then(|digits| digits.parse().ok()).unwrap_or(0), message }
}
