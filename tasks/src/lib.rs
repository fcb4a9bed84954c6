//! Downstream tasks with the field's own metric.
