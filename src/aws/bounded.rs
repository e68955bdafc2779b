//! A bound on the elements of an answer, counted before a parser makes a tree of them.
//!
//! An element of two octets becomes a value of thirty or a record of some hundreds. The peer is not proven by anything
//! where an endpoint is plain HTTP, and a task's metadata always is.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of an answer. Reading fails once it has too many elements.
pub(super) struct BoundedBody {
    body: SdkBody,
    elements: Elements,
}

impl BoundedBody {
    pub(super) fn new(body: SdkBody) -> Self {
        Self { body, elements: Elements::default() }
    }
}

impl Body for BoundedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        Poll::Ready(frame.map(|frame| {
            let frame = frame?;
            if let Some(data) = frame.data_ref() {
                self.elements.take(data)?;
            }
            Ok(frame)
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        Body::size_hint(&self.body)
    }
}

/// An answer has more elements than any that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the answer has more than {ELEMENTS} elements")]
pub(super) struct TooMany;

/// The elements of JSON or XML so far.
#[derive(Debug, Default)]
struct Elements {
    octets: usize,
    count: usize,
    language: Option<Language>,
    /// Inside of a string of JSON, and behind a backslash there.
    quoted: bool,
    escaped: bool,
}

#[derive(Debug, Clone, Copy)]
enum Language {
    Json,
    Xml,
}

impl Elements {
    fn take(&mut self, part: &[u8]) -> Result<(), TooMany> {
        self.octets += part.len();
        part.iter().for_each(|octet| self.octet(*octet));
        if self.octets > FREE && self.count > ELEMENTS { Err(TooMany) } else { Ok(()) }
    }

    fn octet(&mut self, octet: u8) {
        // A text that begins as one of them is not read by a parser of the other.
        let language = match (self.language, octet) {
            (Some(language), _) => language,
            (None, b' ' | b'\t' | b'\r' | b'\n') => return,
            (None, b'{' | b'[') => *self.language.insert(Language::Json),
            (None, _) => *self.language.insert(Language::Xml),
        };
        let begins = match language {
            // Every value but the first stands behind one of these.
            Language::Json if !self.quoted => {
                self.quoted = octet == b'"';
                matches!(octet, b',' | b'{' | b'[')
            }
            Language::Json => {
                self.quoted = self.escaped || octet != b'"';
                self.escaped = !self.escaped && octet == b'\\';
                false
            }
            // Tags and attributes.
            Language::Xml => matches!(octet, b'<' | b'='),
        };
        self.count += usize::from(begins);
    }
}

/// A list of 500 objects of S3 has about 8,000 tags.
pub(super) const ELEMENTS: usize = 16 * 1024;

/// So long an answer may consist of nothing else: a task definition, a secret and a CredSpec have this length at most,
/// and are refused for what they say.
const FREE: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(text: &str) -> usize {
        let mut elements = Elements::default();
        // In parts, as it comes.
        text.as_bytes().chunks(3).for_each(|part| elements.take(part).unwrap());
        elements.count
    }

    #[test]
    fn elements_of_json_and_xml_are_counted() {
        assert_eq!(counted(r#" {"a": [1, 2, {}], "b": null}"#), 6);
        assert_eq!(counted(r#"["in a string: , [ { \" , \\", "\\\\", "x"]"#), 3);
        assert_eq!(counted(r#"<a b="{"><c/>[,,]</a>"#), 4);
        assert_eq!(counted(r#""a string", {}, []"#), 0);
        assert_eq!(counted(""), 0);
    }

    #[test]
    fn many_elements_are_refused_in_a_long_answer_only() {
        let taken = |text: String| Elements::default().take(text.as_bytes());
        assert_eq!(taken(format!("[{}1]", "1,".repeat(FREE / 2 - 2))), Ok(()));
        assert_eq!(taken(format!("[{}1]", "1,".repeat(FREE))), Err(TooMany));
        assert_eq!(taken("<a/>".repeat(FREE)), Err(TooMany));
        assert_eq!(taken(format!("<a {}/>", "b='' ".repeat(FREE))), Err(TooMany));
        // Many octets, few elements.
        assert_eq!(taken(format!(r#"{{"SecretString": "{}"}}"#, "[,{<".repeat(FREE))), Ok(()));
        assert_eq!(taken(format!("<Contents>{}</Contents>", "x".repeat(4 * FREE))), Ok(()));
    }
}
