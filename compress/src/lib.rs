//! The way from one form of a model to a cheaper one.
