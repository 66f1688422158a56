//! The tools: names, descriptions and arguments. An agent pays for these texts in each session, so they are short.

use std::sync::Arc;

use coord_db::KnowledgeType;
use rmcp::model::{Tool, ToolAnnotations};
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// What the server says of itself.
pub(super) const INSTRUCTIONS: &str = "Several agents change this repository at the same time, each in its own workspace. Call \
context first. Lease files with lock before you change them. When you are done, just end; your work is then verified and landed.";

/// A tool with its arguments.
#[derive(Debug, PartialEq)]
pub(super) enum Call {
    Context,
    Lock(Lock),
    Unlock(Unlock),
    Ask(Ask),
    Learn(Learn),
    Request(Request),
    Check,
    GiveUp(GiveUp),
}

#[derive(Debug, PartialEq, Deserialize)]
pub(super) struct Lock {
    #[serde(alias = "path", deserialize_with = "one_or_more")]
    pub(super) paths: Vec<String>,
    pub(super) wait_seconds: Option<u32>,
    pub(super) reason: Option<String>,
}

#[derive(Debug, PartialEq, Deserialize)]
pub(super) struct Unlock {
    #[serde(alias = "path", deserialize_with = "one_or_more")]
    pub(super) paths: Vec<String>,
}

#[derive(Debug, PartialEq, Deserialize)]
pub(super) struct Ask {
    pub(super) question: String,
    pub(super) options: Vec<String>,
    pub(super) default: Option<String>,
    pub(super) wait_seconds: Option<u32>,
}

#[derive(Debug, PartialEq, Deserialize)]
pub(super) struct Learn {
    pub(super) content: String,
    #[serde(rename = "type", default = "fact")]
    pub(super) item_type: KnowledgeType,
    pub(super) topic: Option<String>,
    #[serde(default, deserialize_with = "one_or_more")]
    pub(super) areas: Vec<String>,
}

#[derive(Debug, PartialEq, Deserialize)]
pub(super) struct Request {
    pub(super) path: String,
    pub(super) description: String,
}

#[derive(Debug, PartialEq, Deserialize)]
pub(super) struct GiveUp {
    pub(super) reason: String,
}

fn fact() -> KnowledgeType {
    KnowledgeType::Fact
}

/// Models write one string where a list is asked for.
fn one_or_more<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Given {
        One(String),
        More(Vec<String>),
    }
    Ok(match Given::deserialize(deserializer)? {
        Given::One(one) => vec![one],
        Given::More(more) => more,
    })
}

impl Call {
    /// Reads a call. None for a tool that does not exist; the error says what is wrong with the arguments.
    pub(super) fn read(name: &str, arguments: Map<String, Value>) -> Option<Result<Self, String>> {
        fn read<T: serde::de::DeserializeOwned>(arguments: Map<String, Value>, call: fn(T) -> Call) -> Result<Call, String> {
            let wrong = |error: serde_json::Error| format!("the arguments do not fit: {error}; see the schema of the tool");
            serde_json::from_value(Value::Object(arguments)).map(call).map_err(wrong)
        }
        Some(match name {
            "context" => Ok(Self::Context),
            "lock" => read(arguments, Self::Lock),
            "unlock" => read(arguments, Self::Unlock),
            "ask" => read(arguments, Self::Ask),
            "learn" => read(arguments, Self::Learn),
            "request" => read(arguments, Self::Request),
            "check" => Ok(Self::Check),
            "give_up" => read(arguments, Self::GiveUp),
            _ => return None,
        })
    }
}

/// All tools.
pub(super) fn list() -> Vec<Tool> {
    let text = |description: &str| json!({ "type": "string", "description": description });
    let texts = |description: &str| json!({ "type": "array", "items": { "type": "string" }, "description": description });
    let seconds = json!({ "type": "integer", "description": "Maximum wait" });
    let changing = || ToolAnnotations::new().read_only(false).destructive(false).open_world(false);
    let tool = |name: &'static str, description: &'static str, properties: Value, required: &[&str]| {
        let mut schema = Map::new();
        schema.insert("type".to_owned(), json!("object"));
        schema.insert("properties".to_owned(), properties);
        if !required.is_empty() {
            schema.insert("required".to_owned(), json!(required));
        }
        Tool::new(name, description, Arc::new(schema)).with_annotations(changing())
    };
    vec![
        tool(
            "context",
            "Your test, the rules, the checks that will judge your work, and what other agents know, own and hold.",
            json!({}),
            &[],
        )
        .annotate(ToolAnnotations::new().read_only(true).open_world(false)),
        tool(
            "lock",
            "Lease files before you change them, so that no other agent changes them meanwhile. Waits while others hold them. \
             Then brings the files up to date with what others have landed, and says what changed. Lease all files that belong \
             together in one call.",
            json!({
                "paths": texts("Files, folders (end in /) or resources such as port:5432; all or none is leased"),
                "wait_seconds": seconds,
                "reason": text("For the other agents"),
            }),
            &["paths"],
        ),
        tool(
            "unlock",
            "Release leases that you do not need after all. Leases on files that you have changed last until the work has landed.",
            json!({ "paths": texts("As they were leased") }),
            &["paths"],
        ),
        tool(
            "ask",
            "Ask the human for a decision that you must not make yourself, and wait for the answer. If no answer comes in time, \
             call it again with the same question, or go on with other work.",
            json!({
                "question": text("With what the human needs to know to decide"),
                "options": texts("At least two answers"),
                "default": text("The option that counts if the human does not answer in time"),
                "wait_seconds": seconds,
            }),
            &["question", "options"],
        ),
        tool(
            "learn",
            "Record what other agents should know about this repository: a fact, decision, pattern or warning that is not \
             obvious from the files.",
            json!({
                "content": text("One statement"),
                "type": { "type": "string", "enum": ["fact", "decision", "pattern", "warning"] },
                "topic": text("One word"),
                "areas": texts("Globs of the files that it is about"),
            }),
            &["content"],
        ),
        tool(
            "request",
            "Ask for permission to change a path that another loop owns. Without permission, changes there do not land. Call it \
             again to see the answer.",
            json!({ "path": text("The path"), "description": text("The change and its reason") }),
            &["path", "description"],
        ),
        tool(
            "check",
            "Run the checks that will judge your work on the files as they are now, and get the output of the one that fails. \
             May take minutes.",
            json!({}),
            &[],
        ),
        tool(
            "give_up",
            "End the attempt honestly if the test cannot be done as it is specified. Then stop at once.",
            json!({ "reason": text("What prevents it, and what would help") }),
            &["reason"],
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number of bytes of a token in English text and JSON; most tokens are longer.
    const TOKEN_BYTES: usize = 4;

    #[test]
    fn the_tools_cost_little_in_each_session() {
        let tools = list();
        assert!(tools.len() <= 8);
        let bytes = |tool: &Tool| {
            let schema = serde_json::to_string(&tool.input_schema).unwrap().len();
            tool.name.len() + tool.description.as_ref().map_or(0, |text| text.len()) + schema
        };
        let all: usize = tools.iter().map(bytes).sum();
        assert!((all + INSTRUCTIONS.len()) / TOKEN_BYTES < 2_000, "{all} bytes");
        // Half of the limit: the wire format and other tokenizers need more.
        assert!(all / TOKEN_BYTES < 1_000, "{all} bytes");
    }

    #[test]
    fn each_tool_is_read_with_the_arguments_of_its_schema() {
        for tool in list() {
            let mut arguments = Map::new();
            for name in tool.input_schema.get("required").and_then(Value::as_array).into_iter().flatten() {
                let name = name.as_str().unwrap();
                let is_list = tool.input_schema["properties"][name]["type"] == "array";
                arguments.insert(name.to_owned(), if is_list { json!(["x", "y"]) } else { json!("x") });
            }
            assert!(Call::read(&tool.name, arguments.clone()).unwrap().is_ok(), "{}", tool.name);
            if let Some(first) = arguments.keys().next().cloned() {
                arguments.remove(&first);
                let wrong = Call::read(&tool.name, arguments).unwrap().unwrap_err();
                assert!(wrong.contains(&format!("missing field `{first}`")), "{wrong}");
            }
        }
        assert_eq!(Call::read("nothing", Map::new()), None);
        let one = Map::from_iter([("path".to_owned(), json!("a"))]);
        let expected = Lock { paths: vec!["a".to_owned()], wait_seconds: None, reason: None };
        assert_eq!(Call::read("lock", one), Some(Ok(Call::Lock(expected))));
    }
}
