//! `--budget`: a share, or as much as V says is needed.

use serde::{Deserialize, Serialize};

/// How much of full training's operations to spend.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(into = "BudgetText", try_from = "BudgetText")]
pub enum Budget {
    /// This share of them.
    Share(f64),
    /// All sweeps, of which as much is skipped as can be for nothing.
    Auto,
}

/// As it is in files.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum BudgetText {
    Share(f64),
    Word(String),
}

impl From<Budget> for BudgetText {
    fn from(budget: Budget) -> BudgetText {
        match budget {
            Budget::Share(share) => BudgetText::Share(share),
            Budget::Auto => BudgetText::Word(AUTO.into()),
        }
    }
}

impl TryFrom<BudgetText> for Budget {
    type Error = String;

    fn try_from(text: BudgetText) -> Result<Budget, String> {
        match text {
            BudgetText::Share(share) => Ok(Budget::Share(share)),
            BudgetText::Word(word) => word.parse(),
        }
    }
}

impl std::str::FromStr for Budget {
    type Err = String;

    fn from_str(text: &str) -> Result<Budget, String> {
        if text == AUTO {
            return Ok(Budget::Auto);
        }
        let share = text.parse().map(Budget::Share);
        share.map_err(|_| format!("`{text}` is neither a share, such as 0.65, nor {AUTO}"))
    }
}

impl std::fmt::Display for Budget {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Budget::Share(share) => write!(f, "{share}"),
            Budget::Auto => write!(f, "{AUTO}"),
        }
    }
}

const AUTO: &str = "auto";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_as_it_was_written_on_the_command_line_and_in_files() {
        for (text, budget) in [("0.65", Budget::Share(0.65)), ("auto", Budget::Auto)] {
            assert_eq!(text.parse(), Ok(budget));
            assert_eq!(budget.to_string(), text);
            let table =
                toml::Table::from_iter([("a".to_string(), toml::Value::try_from(budget).unwrap())]);
            let read: toml::Table = toml::from_str(&table.to_string()).unwrap();
            assert_eq!(read["a"].clone().try_into::<Budget>().unwrap(), budget);
        }
        assert_eq!(
            toml::Value::Integer(1).try_into::<Budget>().unwrap(),
            Budget::Share(1.0)
        );
        assert!(toml::Value::from("most").try_into::<Budget>().is_err());
        assert!(
            "most"
                .parse::<Budget>()
                .unwrap_err()
                .contains("neither a share")
        );
    }
}
