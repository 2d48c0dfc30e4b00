//! Names that are spelt alike.

/// The most names that are suggested.
const MOST: usize = 3;

/// The names nearest to `name`, best first: few letters differ, or one contains the other.
pub fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Vec<String> {
    // The distance is of no use on texts that are no names, and would cost much time on long ones.
    if name.is_empty() || name.len() > 256 {
        return Vec::new();
    }
    let wanted: Vec<char> = name.chars().collect();
    let limit = 1 + wanted.len() / 4;
    let mut found: Vec<(usize, bool, &str)> = names
        .filter_map(|candidate| {
            let letters: Vec<char> = candidate.chars().take(257).collect();
            let close = letters.len().abs_diff(wanted.len()) <= limit;
            let distance = if close { distance(&wanted, &letters) } else { usize::MAX };
            if distance <= limit {
                Some((distance, !candidate.contains(name), candidate))
            } else if wanted.len() >= 4 && candidate.contains(name) {
                Some((limit + candidate.len() - name.len(), false, candidate))
            } else {
                None
            }
        })
        .collect();
    found.sort_unstable();
    found.into_iter().take(MOST).map(|(_, _, name)| name.to_owned()).collect()
}

/// How many letters must be put in, left out, exchanged or swapped with the next.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    let mut previous = None;
    for (row, letter) in a.iter().enumerate() {
        let mut current = Vec::with_capacity(last.len());
        current.push(row + 1);
        let mut left = row + 1;
        for (column, other) in b.iter().enumerate() {
            let get = |line: &[usize], at: usize| line.get(at).copied().unwrap_or(usize::MAX / 2);
            let mut best = (get(&last, column) + usize::from(letter != other))
                .min(get(&last, column + 1) + 1)
                .min(left + 1);
            if column > 0 && previous == Some(other) && b.get(column - 1) == Some(letter) {
                best = best.min(get(&before, column - 1) + 1);
            }
            current.push(best);
            left = best;
        }
        previous = Some(letter);
        before = std::mem::replace(&mut last, current);
    }
    last.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typing_mistakes_are_found() {
        let names = ["container_t", "container_file_t", "contain_t", "kernel_t", "sysfs_t"];
        assert_eq!(nearest("contianer_t", names.into_iter())[0], "container_t");
        assert_eq!(nearest("container", names.into_iter()).first().map(String::as_str), Some("container_t"));
        assert_eq!(nearest("sysfs", names.into_iter()), ["sysfs_t"]);
        assert!(nearest("zzzzzz", names.into_iter()).is_empty());
        assert_eq!(distance(&['a', 'b'], &['b', 'a']), 1);
        assert_eq!(distance(&[], &['b', 'a']), 2);
    }
}
