//! A stand-in for `curl` in instances whose image has none: as much of it as moves a file between the
//! instance and the server.
//!
//! `curl [-f] [-s] [-S] [-L] [-X METHOD] [-T FILE|-] [-H 'Name: value'] [-o FILE] URL`, plain HTTP to `localhost` or
//! an IPv4 address. Exit codes are curl's. What it does not do it refuses in words.

use crate::Args;
use crate::http::{BadUrl, Body, Head, Url, Weird, parse_head, parse_url};
use crate::sys::{self, AT_EMPTY_PATH, AT_FDCWD, EAGAIN, Fd};

const FAILED_INIT: i32 = 2;
const UNSUPPORTED: i32 = 1;
const URL_MALFORMED: i32 = 3;
const NO_HOST: i32 = 6;
const NO_CONNECTION: i32 = 7;
const WEIRD_SERVER: i32 = 8;
const PARTIAL: i32 = 18;
const RETURNED_ERROR: i32 = 22;
const WRITE_ERROR: i32 = 23;
const READ_ERROR: i32 = 26;
const REDIRECTS: i32 = 47;
const GOT_NOTHING: i32 = 52;
const SEND_ERROR: i32 = 55;
const RECV_ERROR: i32 = 56;

const MAX_HEADERS: usize = 32;
const BUFFER: usize = 64 * 1024;
/// Room for a chunk's size line before the content and its line end after.
const CHUNK_HEAD: usize = 10;
const MAX_HEAD: usize = 16 * 1024;

const USAGE: &str = "usage: curl [-f] [-s] [-S] [-L] [-X METHOD] [-T FILE|-] [-H HEADER] [-o FILE] URL\n\
    This is boxrig's stand-in: plain HTTP to localhost or an IPv4 address. An image with curl has more.\n";

/// Why it ended: curl's code and words.
struct Failure {
    code: i32,
    words: &'static str,
    /// Appended to the words.
    detail: &'static [u8],
    /// The status of the answer, appended unless 0.
    status: u16,
}

fn fail<T>(code: i32, words: &'static str) -> Result<T, Failure> {
    Err(failure(code, words, b""))
}

fn failure(code: i32, words: &'static str, detail: &'static [u8]) -> Failure {
    Failure {
        code,
        words,
        detail,
        status: 0,
    }
}

/// What the arguments ask for.
struct Options {
    fail: bool,
    silent: bool,
    show_error: bool,
    follow: bool,
    method: Option<&'static [u8]>,
    upload: Option<&'static [u8]>,
    output: Option<&'static [u8]>,
    headers: [&'static [u8]; MAX_HEADERS],
    header_count: usize,
    url: Option<&'static [u8]>,
    information: Option<&'static str>,
}

/// Runs it and gives its exit code.
pub(crate) fn main(args: Args) -> i32 {
    let mut options = Options {
        fail: false,
        silent: false,
        show_error: false,
        follow: false,
        method: None,
        upload: None,
        output: None,
        headers: [b""; MAX_HEADERS],
        header_count: 0,
        url: None,
        information: None,
    };
    let result = options.read(args).and_then(|()| match options.information {
        Some(text) => write_out(1, text.as_bytes()),
        None => run(&options),
    });
    match result {
        Ok(()) => 0,
        Err(failure) => {
            if !options.silent || options.show_error {
                complain(&failure);
            }
            failure.code
        }
    }
}

fn complain(failure: &Failure) {
    let mut line = [0u8; 512];
    let mut at = 0;
    let mut put = |text: &[u8]| {
        for &byte in text {
            if at < line.len() - 1 {
                // Arguments may hold anything; a terminal must not obey it.
                line[at] = if byte < b' ' || byte == 0x7f {
                    b'?'
                } else {
                    byte
                };
                at += 1;
            }
        }
    };
    put(b"curl: (");
    let mut digits = [0; 20];
    put(decimal(failure.code as u64, &mut digits));
    put(b") ");
    put(failure.words.as_bytes());
    put(failure.detail);
    if failure.status != 0 {
        let mut digits = [0; 20];
        put(decimal(u64::from(failure.status), &mut digits));
    }
    line[at] = b'\n';
    let _ = sys::write_all(2, &line[..=at]);
}

fn decimal(mut value: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            return &digits[at..];
        }
    }
}

impl Options {
    fn read(&mut self, args: Args) -> Result<(), Failure> {
        let mut index = 1;
        while let Some(arg) = args.get(index) {
            index += 1;
            if arg.len() < 2 || arg[0] != b'-' {
                if self.url.replace(arg).is_some() {
                    return fail(FAILED_INIT, "more than one URL");
                }
                continue;
            }
            if arg[1] == b'-' {
                let short = match &arg[2..] {
                    b"fail" => b'f',
                    b"silent" => b's',
                    b"show-error" => b'S',
                    b"location" => b'L',
                    b"request" => b'X',
                    b"upload-file" => b'T',
                    b"header" => b'H',
                    b"output" => b'o',
                    b"version" => b'V',
                    b"help" => b'h',
                    _ => {
                        return Err(failure(FAILED_INIT, "option not supported: ", arg));
                    }
                };
                if !self.flag(short) {
                    let value = args.get(index);
                    index += 1;
                    self.value(short, value, arg)?;
                }
                continue;
            }
            // Several flags in one argument, the last of which may have its value there too.
            let mut rest = &arg[1..];
            while let Some((&short, after)) = rest.split_first() {
                rest = after;
                if self.flag(short) {
                    continue;
                }
                let value = if after.is_empty() {
                    index += 1;
                    args.get(index - 1)
                } else {
                    rest = b"";
                    Some(after)
                };
                self.value(short, value, arg)?;
            }
        }
        Ok(())
    }

    /// Takes an option that has no value; `false` when it is another.
    fn flag(&mut self, short: u8) -> bool {
        match short {
            b'f' => self.fail = true,
            b's' => self.silent = true,
            b'S' => self.show_error = true,
            b'L' => self.follow = true,
            b'V' => self.information = Some("curl 0.0 (boxrig stand-in)\nProtocols: http\n"),
            b'h' => self.information = Some(USAGE),
            _ => return false,
        }
        true
    }

    fn value(
        &mut self,
        short: u8,
        value: Option<&'static [u8]>,
        arg: &'static [u8],
    ) -> Result<(), Failure> {
        if !matches!(short, b'X' | b'T' | b'H' | b'o') {
            return Err(failure(FAILED_INIT, "option not supported: ", arg));
        }
        let Some(value) = value else {
            return Err(failure(FAILED_INIT, "option needs a value: ", arg));
        };
        match short {
            b'X' => {
                if value.is_empty() || !value.iter().all(u8::is_ascii_alphanumeric) {
                    return fail(FAILED_INIT, "a method is letters and digits");
                }
                self.method = Some(value);
            }
            b'T' => self.upload = Some(value),
            b'o' => self.output = Some(value),
            _ => {
                let name = value
                    .iter()
                    .position(|&b| b == b':')
                    .map_or(&b""[..], |at| &value[..at]);
                let token = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
                let clean = value.iter().all(|&b| b != b'\r' && b != b'\n');
                if name.is_empty() || !name.iter().all(token) || !clean {
                    return fail(FAILED_INIT, "a header is Name: value in one line");
                }
                if self.header_count == MAX_HEADERS {
                    return fail(FAILED_INIT, "too many headers");
                }
                self.headers[self.header_count] = value;
                self.header_count += 1;
            }
        }
        Ok(())
    }

    fn headers(&self) -> &[&'static [u8]] {
        &self.headers[..self.header_count]
    }

    fn gives(&self, name: &[u8]) -> bool {
        self.headers().iter().any(|header| {
            header.len() > name.len()
                && header[name.len()] == b':'
                && header[..name.len()].eq_ignore_ascii_case(name)
        })
    }
}

/// What is sent, and whether its length is known.
struct Upload {
    file: Fd,
    length: Option<u64>,
}

fn open_upload(name: &'static [u8]) -> Result<Upload, Failure> {
    if name == b"-" || name == b"." {
        return Ok(Upload {
            file: Fd(0),
            length: None,
        });
    }
    let cannot = || failure(READ_ERROR, "cannot read ", name);
    let mut path = [0u8; 4096];
    let path = c_string(name, &mut path).ok_or_else(cannot)?;
    let file = sys::openat(AT_FDCWD, path, sys::O_RDONLY, 0).map_err(|_| cannot())?;
    let stat = sys::stat(file.0, b"\0", AT_EMPTY_PATH).map_err(|_| cannot())?;
    match stat.mode & sys::S_IFMT {
        sys::S_IFDIR => Err(cannot()),
        sys::S_IFREG => Ok(Upload {
            file,
            length: Some(stat.size),
        }),
        _ => Ok(Upload { file, length: None }),
    }
}

fn c_string<'b>(name: &[u8], buffer: &'b mut [u8; 4096]) -> Option<&'b [u8]> {
    let end = name.len();
    buffer.get_mut(..end)?.copy_from_slice(name);
    *buffer.get_mut(end)? = 0;
    buffer.get(..=end)
}

fn run(options: &Options) -> Result<(), Failure> {
    let Some(text) = options.url else {
        let _ = sys::write_all(2, USAGE.as_bytes());
        return fail(FAILED_INIT, "no URL");
    };
    let url = parse_url(text).map_err(|bad| match bad {
        BadUrl::Scheme => failure(
            UNSUPPORTED,
            "only http is supported by this stand-in: ",
            text,
        ),
        BadUrl::Host => failure(
            NO_HOST,
            "only localhost and IPv4 addresses are known to this stand-in: ",
            text,
        ),
        BadUrl::Malformed => failure(URL_MALFORMED, "not a URL: ", text),
    })?;
    let upload = options.upload.map(open_upload).transpose()?;
    let mut head = HeadBuffer {
        bytes: [0; MAX_HEAD],
        used: 0,
    };
    write_head(options, &url, upload.as_ref(), &mut head);
    if head.used > MAX_HEAD {
        return fail(FAILED_INIT, "the request is too long");
    }

    let socket = connect(&url)?;
    if sys::send_quiet(socket.0, &head.bytes[..head.used]).is_err() {
        return fail(SEND_ERROR, "cannot send the request");
    }
    if let Some(upload) = &upload {
        send_content(&socket, upload)?;
    }
    receive(options, &socket)
}

struct HeadBuffer {
    bytes: [u8; MAX_HEAD],
    /// More than there is room for when something did not fit.
    used: usize,
}

impl HeadBuffer {
    fn put(&mut self, text: &[u8]) {
        let end = self.used.saturating_add(text.len());
        if let Some(room) = self.bytes.get_mut(self.used..end) {
            room.copy_from_slice(text);
        }
        self.used = end;
    }
}

fn write_head(options: &Options, url: &Url<'_>, upload: Option<&Upload>, head: &mut HeadBuffer) {
    let usual: &[u8] = if upload.is_some() { b"PUT" } else { b"GET" };
    head.put(options.method.unwrap_or(usual));
    head.put(b" ");
    if !url.target.starts_with(b"/") {
        head.put(b"/");
    }
    head.put(url.target);
    head.put(b" HTTP/1.1\r\n");
    if !options.gives(b"Host") {
        head.put(b"Host: ");
        head.put(url.authority);
        head.put(b"\r\n");
    }
    if !options.gives(b"User-Agent") {
        head.put(b"User-Agent: curl/0.0 (boxrig)\r\n");
    }
    if !options.gives(b"Accept") {
        head.put(b"Accept: */*\r\n");
    }
    for header in options.headers() {
        // curl: a name without a value takes a header away; the usual ones are left out above.
        let value = header
            .iter()
            .position(|&b| b == b':')
            .map_or(&b""[..], |at| &header[at + 1..]);
        if !value.trim_ascii().is_empty() {
            head.put(header);
            head.put(b"\r\n");
        }
    }
    match upload {
        Some(Upload {
            length: Some(length),
            ..
        }) => {
            let mut digits = [0; 20];
            head.put(b"Content-Length: ");
            head.put(decimal(*length, &mut digits));
            head.put(b"\r\n");
        }
        Some(Upload { length: None, .. }) => head.put(b"Transfer-Encoding: chunked\r\n"),
        None => {}
    }
    head.put(b"Connection: close\r\n\r\n");
}

fn connect(url: &Url<'_>) -> Result<Fd, Failure> {
    const AF_INET: u32 = 2;
    const SOCK_STREAM: u32 = 1;
    let cannot = || failure(NO_CONNECTION, "cannot connect to the server", b"");
    let socket = sys::socket(AF_INET, SOCK_STREAM, 0).map_err(|_| cannot())?;
    let mut address = [0u8; 16];
    address[..2].copy_from_slice(&(AF_INET as u16).to_ne_bytes());
    address[2..4].copy_from_slice(&url.port.to_be_bytes());
    address[4..8].copy_from_slice(&url.address);
    sys::connect(socket.0, &address).map_err(|_| cannot())?;
    Ok(socket)
}

/// Sends the content. Stops without an error when the server answers early, or ends the connection:
/// what it has to say comes next.
fn send_content(socket: &Fd, upload: &Upload) -> Result<(), Failure> {
    let mut buffer = [0u8; CHUNK_HEAD + BUFFER + 2];
    let mut left = upload.length;
    loop {
        let room = match left {
            Some(0) => return Ok(()),
            Some(left) => usize::try_from(left).map_or(BUFFER, |left| left.min(BUFFER)),
            None => BUFFER,
        };
        let got = match sys::read(upload.file.0, &mut buffer[CHUNK_HEAD..CHUNK_HEAD + room]) {
            Ok(got) => got,
            Err(_) => return fail(READ_ERROR, "cannot read what is to be sent"),
        };
        if got == 0 && left.is_some() {
            return fail(READ_ERROR, "the file became shorter while it was sent");
        }
        let piece = match &mut left {
            Some(left) => {
                *left -= got as u64;
                &buffer[CHUNK_HEAD..CHUNK_HEAD + got]
            }
            None => frame_chunk(&mut buffer, got),
        };
        if answered(socket) || sys::send_quiet(socket.0, piece).is_err() {
            return Ok(());
        }
        if got == 0 {
            return Ok(());
        }
    }
}

/// Puts the size line before `length` bytes of content and the line end after; no content is the end.
fn frame_chunk(buffer: &mut [u8; CHUNK_HEAD + BUFFER + 2], length: usize) -> &[u8] {
    let end = CHUNK_HEAD + length;
    buffer[end..end + 2].copy_from_slice(b"\r\n");
    let mut at = CHUNK_HEAD - 2;
    buffer[at..CHUNK_HEAD].copy_from_slice(b"\r\n");
    let mut left = length;
    loop {
        at -= 1;
        buffer[at] = b"0123456789abcdef"[left % 16];
        left /= 16;
        if left == 0 {
            return &buffer[at..end + 2];
        }
    }
}

/// Whether the server has said something, or ended the connection.
fn answered(socket: &Fd) -> bool {
    let mut byte = [0; 1];
    !matches!(sys::peek(socket.0, &mut byte), Err(EAGAIN))
}

fn receive(options: &Options, socket: &Fd) -> Result<(), Failure> {
    let mut buffer = [0u8; BUFFER];
    let mut have = 0;
    let mut head = read_head(socket, &mut buffer, &mut have)?;
    if (300..400).contains(&head.status) && options.follow {
        return fail(
            REDIRECTS,
            "the server redirects, which this stand-in does not follow",
        );
    }
    if options.fail && head.status >= 400 {
        return Err(Failure {
            status: head.status,
            ..failure(RETURNED_ERROR, "The requested URL returned error: ", b"")
        });
    }
    let output = match options.output {
        Some(name) if name != b"-" => {
            let cannot = || failure(WRITE_ERROR, "cannot write ", name);
            let mut path = [0u8; 4096];
            let path = c_string(name, &mut path).ok_or_else(cannot)?;
            let flags = sys::O_WRONLY | sys::O_CREAT | sys::O_TRUNC;
            sys::openat(AT_FDCWD, path, flags, 0o666).map_err(|_| cannot())?
        }
        _ => Fd(1),
    };
    let no_body = options.method.is_some_and(|method| method == b"HEAD");
    let mut at = head.length;
    while !no_body && !head.body.done() {
        if at == have {
            at = 0;
            have = match sys::read(socket.0, &mut buffer) {
                Ok(0) if head.body.may_end() => break,
                Ok(0) => return fail(PARTIAL, "the connection ended within the answer"),
                Ok(got) => got,
                Err(_) => return fail(RECV_ERROR, "cannot receive the answer"),
            };
        }
        let step = step(&mut head.body, &buffer[at..have])?;
        at += step.0;
        write_out(output.0, &buffer[at - step.1..at])?;
    }
    Ok(())
}

fn step(body: &mut Body, piece: &[u8]) -> Result<(usize, usize), Failure> {
    match body.step(piece) {
        Ok(step) => Ok((step.consumed, step.content)),
        Err(Weird) => fail(RECV_ERROR, "the answer's chunks are malformed"),
    }
}

/// Reads up to the end of the head; interim answers (1xx) are passed over.
fn read_head(socket: &Fd, buffer: &mut [u8; BUFFER], have: &mut usize) -> Result<Head, Failure> {
    loop {
        match parse_head(&buffer[..*have]) {
            Ok(Some(head)) if head.status < 200 => {
                buffer.copy_within(head.length..*have, 0);
                *have -= head.length;
                continue;
            }
            Ok(Some(head)) => return Ok(head),
            Ok(None) if *have < MAX_HEAD => {}
            Ok(None) | Err(Weird) => return fail(WEIRD_SERVER, "the answer is not HTTP"),
        }
        match sys::read(socket.0, &mut buffer[*have..]) {
            Ok(0) if *have == 0 => return fail(GOT_NOTHING, "the server gave no answer"),
            Ok(0) => return fail(PARTIAL, "the connection ended within the answer"),
            Ok(got) => *have += got,
            Err(_) => return fail(RECV_ERROR, "cannot receive the answer"),
        }
    }
}

fn write_out(fd: i32, bytes: &[u8]) -> Result<(), Failure> {
    match sys::write_all(fd, bytes) {
        Ok(()) => Ok(()),
        Err(_) => fail(WRITE_ERROR, "cannot write what was received"),
    }
}
