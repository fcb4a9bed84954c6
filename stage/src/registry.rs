//! `registry!`: the list of all plans of one kind, in one place that can be read.

/// Gathers plans of one kind into an enum whose snake-case variant name is the key in a recipe.
///
/// The plan of each row is plain data (`Deserialize`, `Serialize`, `JsonSchema`, `Clone`,
/// `Debug`) and implements the trait named after the colon. Adding one touches its new file, its
/// `mod` line, and one row here.
///
/// ```
/// trait Rule { fn name(&self) -> String; }
/// #[derive(Debug, Clone, serde::Deserialize, serde::Serialize, schemars::JsonSchema)]
/// struct CaptionLength { min_words: usize }
/// impl Rule for CaptionLength { fn name(&self) -> String { format!("words ≥ {}", self.min_words) } }
///
/// stage::registry! {
///     /// Every rule that a recipe can name.
///     pub enum AnyRule: Rule {
///         /// Drops short captions.
///         CaptionLength(CaptionLength),
///     }
/// }
/// let rule: AnyRule = serde_json::from_str(r#"{"caption_length": {"min_words": 3}}"#).unwrap();
/// assert_eq!(rule.plan().name(), "words ≥ 3");
/// ```
#[macro_export]
macro_rules! registry {
    (
        $(#[$meta:meta])*
        $vis:vis enum $name:ident : $kind:ident {
            $( $(#[$row_meta:meta])* $row:ident($plan:ty) ),+ $(,)?
        }
    ) => {
        $(#[$meta])*
        #[derive(
            Debug,
            Clone,
            $crate::__serde::Deserialize,
            $crate::__serde::Serialize,
            $crate::__schemars::JsonSchema,
        )]
        #[serde(rename_all = "snake_case", crate = "stage::__serde")]
        #[schemars(crate = "stage::__schemars")]
        $vis enum $name {
            $( $(#[$row_meta])* $row($plan) ),+
        }

        impl $name {
            /// The plan, whichever it is.
            #[must_use]
            $vis fn plan(&self) -> &dyn $kind {
                match self { $( Self::$row(plan) => plan ),+ }
            }
        }
    };
}
