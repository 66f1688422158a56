//! Tokens of answers: one for each option of each question, derived from the access token, so that none has to be kept.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// The token that answers a question with an option. It is of no use once the question is answered.
pub(super) fn answer_token(key: &str, decision: &str, option: &str) -> String {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key.as_bytes()) else { return String::new() };
    mac.update(format!("coding-loops answer\0{decision}\0{option}").as_bytes());
    mac.finalize().into_bytes()[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::answer_token;

    #[test]
    fn each_option_of_each_question_has_its_own() {
        let tokens = [("k", "d", "a"), ("k", "d", "b"), ("k", "e", "a"), ("l", "d", "a")]
            .map(|(key, decision, option)| answer_token(key, decision, option));
        assert!(tokens.iter().all(|token| token.len() == 32));
        assert_eq!(tokens.iter().collect::<std::collections::BTreeSet<_>>().len(), 4);
    }
}
