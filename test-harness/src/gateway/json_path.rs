//! The one form of a JSONPath that patches may have here: `..list[?(@.field=='text')].member.member`, the elements of any list of
//! this name whose field has this text, or what is within them.
//!
//! Envoy Gateway 1.6 to 1.9 reads JSONPath by the Go library ohler55/ojg, which has this form, as in Envoy Gateway's own tests
//! (internal/utils/jsonpatch/jsonpathtopointer_test.go). Every other form is an error here: what this module does not know
//! must not pass a test.

use serde_json::Value;

/// A JSONPath of the known form.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct JsonPath<'t> {
    list: &'t str,
    field: &'t str,
    text: &'t str,
    members: Vec<&'t str>,
}

impl<'t> JsonPath<'t> {
    /// Reads one.
    pub(super) fn parse(path: &'t str) -> Result<Self, String> {
        let known = || {
            let (list, rest) = path.strip_prefix("..")?.split_once("[?(@.")?;
            let (field, rest) = rest.split_once("=='")?;
            let (text, rest) = rest.split_once("')]")?;
            let members: Vec<&str> = match rest {
                "" => Vec::new(),
                rest => rest.strip_prefix('.')?.split('.').collect(),
            };
            let plain = members.iter().chain([&list, &field]).all(|name| is_name(name));
            // Quotes and backslashes would need the library's rules for them.
            (plain && !text.contains(['\'', '"', '\\'])).then_some(Self { list, field, text, members })
        };
        known()
            .ok_or_else(|| format!("jsonPath {path}: only ..list[?(@.field=='text')].member is known here"))
    }

    /// JSON pointers to all that it selects.
    pub(super) fn pointers(&self, document: &Value) -> Vec<String> {
        let mut found = Vec::new();
        self.descend(document, "", &mut found);
        found
    }

    fn descend(&self, value: &Value, at: &str, found: &mut Vec<String>) {
        match value {
            Value::Object(members) => {
                for (name, member) in members {
                    let at = format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"));
                    if name == self.list {
                        self.select(member, &at, found);
                    }
                    self.descend(member, &at, found);
                }
            }
            Value::Array(elements) => {
                for (index, element) in elements.iter().enumerate() {
                    self.descend(element, &format!("{at}/{index}"), found);
                }
            }
            _ => {}
        }
    }

    fn select(&self, list: &Value, at: &str, found: &mut Vec<String>) {
        let elements = list.as_array().into_iter().flatten().enumerate();
        for (index, element) in elements.filter(|(_, element)| element[self.field] == self.text) {
            let within: String = self.members.iter().map(|name| format!("/{name}")).collect();
            if element.pointer(&within).is_some() {
                found.push(format!("{at}/{index}{within}"));
            }
        }
    }
}

fn is_name(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_lowercase())
        && text.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn finds_elements_by_name_in_every_list_of_this_name() {
        let document = json!({
            "filters": [{"name": "a/b"}, {"name": "c"}],
            "chains": [{"a/b": {"filters": [{"name": "c", "config": {"x": 1}}, {"name": "c"}]}}],
            "others": [{"name": "c"}],
        });
        let pointers = |path| JsonPath::parse(path).unwrap().pointers(&document);

        assert_eq!(
            pointers("..filters[?(@.name=='c')]"),
            ["/chains/0/a~1b/filters/0", "/chains/0/a~1b/filters/1", "/filters/1"]
        );
        assert_eq!(pointers("..filters[?(@.name=='a/b')]"), ["/filters/0"]);
        assert_eq!(pointers("..filters[?(@.name=='c')].config.x"), ["/chains/0/a~1b/filters/0/config/x"]);
        assert!(pointers("..filters[?(@.name=='d')]").is_empty());
    }

    #[test]
    fn other_forms_are_refused() {
        for path in [
            "$",
            "filters[0]",
            "..filters",
            "$..filters[?(@.name=='c')]",
            "..filters[0]",
            "..filters[?(@.name =~ 'c')]",
            "..filters[?(@.name==\"c\")]",
            "..filters[?(@.name=='c\\'')]",
            "..filters[?(@.name=='c')]config",
            "..filters[?(@.name=='c')].",
            "..filters[?(@.name=='c')].x[0]",
            "..filters[?(@.a.b=='c')]",
            "..*[?(@.name=='c')]",
        ] {
            assert!(JsonPath::parse(path).is_err(), "{path}");
        }
    }
}
