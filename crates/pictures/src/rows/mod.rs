//! Products of many rows with one embedding: what scoring and searching cost.

pub mod quantized_query;
mod row_products;
mod short_rows;

pub use quantized_query::QuantizedQuery;
pub use row_products::row_products;
pub use short_rows::ShortRows;

/// Scales `row` to length 1; `false`, and nothing changes, if it has none.
pub fn normalise(row: &mut [f32]) -> bool {
    let norm = row.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>().sqrt();
    if !norm.is_finite() || norm <= f64::MIN_POSITIVE {
        return false;
    }
    let scale = (1.0 / norm) as f32;
    row.iter_mut().for_each(|v| *v *= scale);
    true
}
