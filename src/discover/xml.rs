//! XML from strangers: bytes in, a flat tree of elements out. Pure, any thread.
//!
//! Namespaces are left out: devices bind every prefix there is, and the local names that matter here are unambiguous. Full: a
//! document with more than [`Limits::nodes`] elements or [`Limits::depth`] levels is refused. So is every document with a DOCTYPE,
//! and with it each entity that is not one of XML's own five: nothing is ever expanded. Time and memory grow with the bytes alone.

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

/// How much of a document is taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub nodes: usize,
    pub depth: usize,
}

/// Why bytes are no document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    #[error("it is no XML")]
    Syntax,
    #[error("it has a DOCTYPE, which is not read from strangers")]
    Doctype,
    #[error("it has an unknown entity")]
    Entity,
    #[error("it has too many elements, or too deep ones")]
    TooLarge,
}

#[derive(Debug)]
struct Node {
    /// Without its prefix.
    name: String,
    /// What stands directly in it, entities resolved.
    text: String,
    /// ONVIF's one attribute that matters, a profile's `token`.
    token: Option<String>,
    parent: usize,
    /// Behind its last descendant.
    end: usize,
}

/// A document, its elements in their order.
#[derive(Debug)]
pub(super) struct Tree {
    nodes: Vec<Node>,
}

impl Tree {
    /// Reads a whole document. Bytes that are not UTF-8 become U+FFFD: old cameras name themselves in old encodings, and their
    /// addresses are readable all the same.
    pub fn parse(bytes: &[u8], limits: Limits) -> Result<Self, Unreadable> {
        let text = String::from_utf8_lossy(bytes);
        // Firmware in C sends its terminator along.
        let text = text.trim_start_matches('\u{feff}').trim_end_matches(['\0', ' ', '\r', '\n', '\t']);
        let mut reader = Reader::from_str(text);
        let mut tree = Self { nodes: Vec::new() };
        let mut open: Vec<usize> = Vec::new();
        loop {
            match reader.read_event().map_err(|_| Unreadable::Syntax)? {
                Event::Start(start) => {
                    let node = tree.add(&start, &open, limits)?;
                    open.push(node);
                }
                Event::Empty(start) => {
                    tree.add(&start, &open, limits)?;
                }
                // The reader checks that names match.
                Event::End(_) => {
                    let node = open.pop().ok_or(Unreadable::Syntax)?;
                    let end = tree.nodes.len();
                    tree.nodes[node].end = end;
                }
                Event::Text(text) => tree.append(&open, &text.xml10_content()),
                Event::CData(text) => tree.append(&open, &text.xml10_content()),
                Event::GeneralRef(reference) => {
                    if let Some(c) = reference.resolve_char_ref().map_err(|_| Unreadable::Entity)? {
                        tree.append(&open, c.encode_utf8(&mut [0; 4]));
                    } else {
                        let text = quick_xml::escape::resolve_predefined_entity(&reference);
                        tree.append(&open, text.ok_or(Unreadable::Entity)?);
                    }
                }
                Event::DocType(_) => return Err(Unreadable::Doctype),
                Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
                Event::Eof => break,
            }
        }
        if open.is_empty() && !tree.nodes.is_empty() { Ok(tree) } else { Err(Unreadable::Syntax) }
    }

    fn add(&mut self, start: &BytesStart<'_>, open: &[usize], limits: Limits) -> Result<usize, Unreadable> {
        if self.nodes.len() >= limits.nodes || open.len() >= limits.depth {
            return Err(Unreadable::TooLarge);
        }
        let mut token = None;
        for attribute in start.attributes().with_checks(false) {
            let attribute = attribute.map_err(|_| Unreadable::Syntax)?;
            if attribute.key.local_name().as_ref() == "token" {
                let value = attribute.normalized_value(quick_xml::XmlVersion::Implicit1_0);
                token = Some(value.map_err(|_| Unreadable::Entity)?.into_owned());
            }
        }
        let at = self.nodes.len();
        self.nodes.push(Node {
            name: start.local_name().as_ref().to_owned(),
            text: String::new(),
            token,
            parent: open.last().copied().unwrap_or(at),
            end: at + 1,
        });
        Ok(at)
    }

    fn append(&mut self, open: &[usize], text: &str) {
        if let Some(node) = open.last() {
            self.nodes[*node].text.push_str(text);
        }
    }

    /// Every element of this name, at any depth.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = Element<'a>> {
        (0..self.nodes.len()).filter(move |at| self.nodes[*at].name == name).map(|at| Element { tree: self, at })
    }

    /// The first element of this name.
    pub fn first<'a>(&'a self, name: &'a str) -> Option<Element<'a>> {
        self.all(name).next()
    }
}

/// One element of a [`Tree`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Element<'a> {
    tree: &'a Tree,
    at: usize,
}

impl<'a> Element<'a> {
    fn node(self) -> &'a Node {
        &self.tree.nodes[self.at]
    }

    /// Every element of this name directly in it.
    pub fn children(self, name: &'a str) -> impl Iterator<Item = Element<'a>> {
        self.descendants(name).filter(move |element| element.node().parent == self.at)
    }

    /// Every element of this name inside it.
    pub fn descendants(self, name: &'a str) -> impl Iterator<Item = Element<'a>> {
        let tree = self.tree;
        (self.at + 1..self.node().end)
            .filter(move |at| tree.nodes[*at].name == name)
            .map(move |at| Element { tree, at })
    }

    /// The first element inside it that is reached by these names, each one somewhere inside the one before.
    pub fn find(self, path: &[&'a str]) -> Option<Element<'a>> {
        path.iter().try_fold(self, |element, name| element.descendants(name).next())
    }

    /// Its own text, without the white space around it.
    pub fn text(self) -> &'a str {
        self.node().text.trim()
    }

    pub fn token(self) -> Option<&'a str> {
        self.node().token.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits { nodes: 1000, depth: 32 };

    fn parse(text: &str) -> Result<Tree, Unreadable> {
        Tree::parse(text.as_bytes(), LIMITS)
    }

    #[test]
    fn elements_are_found_by_local_name_whatever_their_prefix() {
        let tree =
            parse("<a:x xmlns:a='u'><b:y token='t&amp;1'> one &lt;&#x32; <z>in</z><![CDATA[&amp;]]></b:y><y/></a:x>")
                .unwrap();
        let y = tree.first("x").unwrap().children("y").next().unwrap();
        assert_eq!((y.text(), y.token()), ("one <2 &amp;", Some("t&1")));
        assert_eq!(tree.first("x").unwrap().find(&["y", "z"]).unwrap().text(), "in");
        assert_eq!(tree.first("x").unwrap().children("z").count(), 0);
        assert_eq!(tree.all("y").count(), 2);
    }

    #[test]
    fn entity_bombs_are_refused_before_anything_grows() {
        let bomb = "<!DOCTYPE x [<!ENTITY a 'aaaaaaaaaa'><!ENTITY b '&a;&a;&a;&a;'>]><x>&b;</x>";
        assert_eq!(parse(bomb).unwrap_err(), Unreadable::Doctype);
        assert_eq!(parse("<x>&b;</x>").unwrap_err(), Unreadable::Entity);
        assert_eq!(parse("<x token='&b;'/>").unwrap_err(), Unreadable::Entity);
    }

    #[test]
    fn too_much_is_refused() {
        assert_eq!(parse(&"<a>".repeat(21_000)).unwrap_err(), Unreadable::TooLarge);
        assert_eq!(parse(&format!("<a>{}</a>", "<b/>".repeat(1000))).unwrap_err(), Unreadable::TooLarge);
    }

    #[test]
    fn halves_and_leftovers_are_no_documents() {
        for text in ["", "x", "<a>", "</a>", "<a></b>", "<a", "<a b=></a>"] {
            assert_eq!(parse(text).unwrap_err(), Unreadable::Syntax, "{text}");
        }
        assert!(parse("\u{feff}<?xml version='1.0'?>\n<a/>\0\0").is_ok());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_fail(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Tree::parse(&bytes, LIMITS);
        }

        #[test]
        fn no_markup_makes_it_fail(parts in prop::collection::vec("<a:b>|</a:b>|<a |token='|&#x0;|&#9999999;|<!\\[CDATA\\[|\\]\\]>|<!--|-->|<\\?|'|\"|>|é", 0..40)) {
            let _ = Tree::parse(parts.concat().as_bytes(), LIMITS);
        }
    }
}
