//! Bytes to a policy.

use super::{
    Bitmap, Boolean, Category, Class, Common, Conditional, Constraint, Context, Endport, Expression,
    FileSystem, FsUse, Level, NEWEST, NameSet, NamedTransition, Node, OLDEST, Ocontexts, Operand, Operator,
    PartitionKey, Path, Permission, Policy, Port, Range, RangeTransition, Role, RoleAllow, RoleTransition,
    Rule, RuleKind, Sensitivity, Step, Table, Twice, Type, User, Xperm, XpermSort, cursor::Cursor,
};
use crate::error::ReadError;

pub(super) const MAGIC: u32 = 0xf97c_ff8c;
pub(super) const TARGET: &[u8; 8] = b"SE Linux";

type Result<T> = std::result::Result<T, ReadError>;

pub(super) fn policy(cursor: &mut Cursor<'_>) -> Result<Policy> {
    let [version, config] = header(cursor)?;
    let capabilities = Bitmap::read(cursor)?;
    let permissive = Bitmap::read(cursor)?;
    let neveraudit = if version >= 35 { Bitmap::read(cursor)? } else { Bitmap::default() };
    let commons = table(cursor, "commons", 16, common)?;
    let classes = table(cursor, "classes", 44, class)?;
    let roles = table(cursor, "roles", 36, role)?;
    let types = table(cursor, "types", 16, kind_of_type)?;
    let users = table(cursor, "users", 60, user)?;
    let booleans = table(cursor, "booleans", 12, boolean)?;
    let sensitivities = table(cursor, "sensitivities", 24, sensitivity)?;
    let categories = table(cursor, "categories", 12, category)?;
    let mut xperms = Vec::new();
    let unconditional = cursor.count("access rules", 12)?;
    let mut rules = Vec::with_capacity(unconditional);
    for _ in 0..unconditional {
        rules.push(rule(cursor, &mut xperms)?);
    }
    let conditionals = cursor.count("conditionals", 24)?;
    let conditionals = cursor.list(conditionals, |cursor| conditional(cursor, &mut rules, &mut xperms))?;
    let role_transitions = role_transitions(cursor)?;
    let role_allows = role_allows(cursor)?;
    let named_transitions = named_transitions(cursor, version)?;
    let ocontexts = read_ocontexts(cursor, version)?;
    let count = cursor.count("file systems with paths", 8)?;
    let paths = cursor.list(count, file_system)?;
    let count = cursor.count("range transitions", 32)?;
    let range_transitions = cursor.list(count, |cursor| {
        let [source, target, class] = cursor.words("range transition")?;
        Ok(RangeTransition { source, target, class, range: range(cursor)? })
    })?;
    let count = cursor.fits(cursor.offset(), "attribute maps (one for each type)", types.highest, 12)?;
    let attribute_maps = cursor.list(count, Bitmap::read)?;
    if cursor.left() > 0 {
        return Err(ReadError::Trailing { offset: cursor.offset(), left: cursor.left() });
    }
    Ok(Policy {
        version,
        config,
        capabilities,
        permissive,
        neveraudit,
        commons,
        classes,
        roles,
        types,
        users,
        booleans,
        sensitivities,
        categories,
        rules,
        unconditional,
        xperms,
        conditionals,
        role_transitions,
        role_allows,
        named_transitions,
        ocontexts,
        paths,
        range_transitions,
        attribute_maps,
    })
}

/// What is before the records: version of the format and configuration.
fn header(cursor: &mut Cursor<'_>) -> Result<[u32; 2]> {
    let magic = cursor.word("magic number")?;
    if magic != MAGIC {
        return Err(ReadError::Magic { found: magic, hint: hint(magic) });
    }
    let offset = cursor.offset();
    let length = cursor.word("length of the policy's kind")?;
    if length != 8 {
        return Err(value(offset, "length of the policy's kind", "8", length));
    }
    let offset = cursor.offset();
    let kind: [u8; 8] = cursor.array("kind of the policy")?;
    if kind != *TARGET {
        return Err(ReadError::Value {
            offset,
            what: "kind of the policy",
            expected: "\"SE Linux\" (policies for Xen are not read)",
            found: u64::from_be_bytes(kind),
        });
    }
    let offset = cursor.offset();
    let [version, config, symbols, ocontexts] = cursor.words("header")?;
    if !(OLDEST..=NEWEST).contains(&version) {
        return Err(value(
            offset,
            "version of the format",
            "30 to 35 (checkpolicy -b -M -c 33 converts others)",
            version,
        ));
    }
    if symbols != 8 {
        return Err(value(offset + 8, "number of symbol tables", "8", symbols));
    }
    let kinds = if version >= 31 { 9 } else { 7 };
    if ocontexts != kinds {
        let expected = if kinds == 9 { "9" } else { "7" };
        return Err(value(offset + 12, "number of object context kinds", expected, ocontexts));
    }
    Ok([version, config])
}

fn role_transitions(cursor: &mut Cursor<'_>) -> Result<Vec<RoleTransition>> {
    let count = cursor.count("role transitions", 16)?;
    cursor.list(count, |cursor| {
        let [role, kind, result, class] = cursor.words("role transition")?;
        Ok(RoleTransition { role, kind, result, class })
    })
}

fn role_allows(cursor: &mut Cursor<'_>) -> Result<Vec<RoleAllow>> {
    let count = cursor.count("role allows", 8)?;
    cursor.list(count, |cursor| {
        let [old, new] = cursor.words("role allow")?;
        Ok(RoleAllow { old, new })
    })
}

fn hint(magic: u32) -> &'static str {
    match (magic, magic.to_le_bytes()) {
        (0xf97c_ff8f, _) => {
            "a policy package (.pp): install it in a module store and read the policy that it makes"
        }
        (0xf97c_ff8d, _) => "a policy module: link it with semodule and read the policy that it makes",
        (_, [0x1f, 0x8b, ..]) => "gzip data: unpack it first",
        (_, [b'B', b'Z', b'h', _]) => "bzip2 data: unpack it first",
        (_, [b'(' | b';', ..]) => "CIL text: compile it with secilc",
        (0x8cff_7cf9, _) => "the byte order is reversed",
        _ => "the policy of the running kernel is /sys/fs/selinux/policy",
    }
}

fn value(offset: usize, what: &'static str, expected: &'static str, found: u32) -> ReadError {
    ReadError::Value { offset, what, expected, found: found.into() }
}

fn flag(offset: usize, what: &'static str, found: u32) -> Result<bool> {
    match found {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(value(offset, what, "0 or 1", found)),
    }
}

fn table<T>(
    cursor: &mut Cursor<'_>,
    what: &'static str,
    least: usize,
    one: impl FnMut(&mut Cursor<'_>) -> Result<T>,
) -> Result<Table<T>> {
    let highest = cursor.word(what)?;
    let count = cursor.count(what, least)?;
    Ok(Table { highest, entries: cursor.list(count, one)? })
}

fn permission(cursor: &mut Cursor<'_>) -> Result<Permission> {
    let [length, value] = cursor.words("permission")?;
    Ok(Permission { name: cursor.name(length, "name of a permission")?, value })
}

fn common(cursor: &mut Cursor<'_>) -> Result<Common> {
    let [length, value, highest] = cursor.words("common")?;
    let count = cursor.count("permissions of a common", 8)?;
    let name = cursor.name(length, "name of a common")?;
    Ok(Common { name, value, permissions: Table { highest, entries: cursor.list(count, permission)? } })
}

fn class(cursor: &mut Cursor<'_>) -> Result<Class> {
    let [length, common_length, value, highest] = cursor.words("class")?;
    let count = cursor.count("permissions of a class", 8)?;
    let constraint_count = cursor.count("constraints of a class", 8)?;
    let name = cursor.name(length, "name of a class")?;
    let common = cursor.name(common_length, "name of a class's common")?;
    let permissions = Table { highest, entries: cursor.list(count, permission)? };
    let constraints = cursor.list(constraint_count, constraint)?;
    let count = cursor.count("rules on label changes of a class", 8)?;
    let validatetrans = cursor.list(count, constraint)?;
    let [default_user, default_role, default_range, default_type] = cursor.words("defaults of a class")?;
    Ok(Class {
        name,
        common,
        value,
        permissions,
        constraints,
        validatetrans,
        default_user,
        default_role,
        default_range,
        default_type,
    })
}

fn constraint(cursor: &mut Cursor<'_>) -> Result<Constraint> {
    let permissions = cursor.word("constraint")?;
    let count = cursor.count("steps of a constraint", 12)?;
    Ok(Constraint { permissions, expression: cursor.list(count, expression)? })
}

fn expression(cursor: &mut Cursor<'_>) -> Result<Expression> {
    let offset = cursor.offset();
    let [kind, operand, operator] = cursor.words("step of a constraint")?;
    let compare = match operator {
        1 => Some(Operator::Equal),
        2 => Some(Operator::Unequal),
        3 => Some(Operator::Dominates),
        4 => Some(Operator::DominatedBy),
        5 => Some(Operator::Incomparable),
        _ => None,
    };
    let bad = || value(offset + 8, "operator of a constraint", "1 to 5", operator);
    match kind {
        1 => Ok(Expression::Not([operand, operator])),
        2 => Ok(Expression::And([operand, operator])),
        3 => Ok(Expression::Or([operand, operator])),
        4 => Ok(Expression::Compare { operand: Operand(operand), operator: compare.ok_or_else(bad)? }),
        5 => {
            let operator = compare.ok_or_else(bad)?;
            let names = Bitmap::read(cursor)?;
            let written = Bitmap::read(cursor)?;
            let negated = Bitmap::read(cursor)?;
            let flags = cursor.word("flags of a set of names")?;
            let set = Box::new(NameSet { names, written, negated, flags });
            Ok(Expression::Names { operand: Operand(operand), operator, set })
        }
        _ => Err(value(offset, "step of a constraint", "1 to 5", kind)),
    }
}

fn role(cursor: &mut Cursor<'_>) -> Result<Role> {
    let [length, value, bounds] = cursor.words("role")?;
    let name = cursor.name(length, "name of a role")?;
    Ok(Role { name, value, bounds, dominates: Bitmap::read(cursor)?, types: Bitmap::read(cursor)? })
}

fn kind_of_type(cursor: &mut Cursor<'_>) -> Result<Type> {
    let offset = cursor.offset();
    let [length, number, properties, bounds] = cursor.words("type")?;
    if properties > 3 {
        return Err(value(offset + 8, "properties of a type", "0 to 3", properties));
    }
    Ok(Type { name: cursor.name(length, "name of a type")?, value: number, properties, bounds })
}

fn user(cursor: &mut Cursor<'_>) -> Result<User> {
    let [length, value, bounds] = cursor.words("user")?;
    let name = cursor.name(length, "name of a user")?;
    let roles = Bitmap::read(cursor)?;
    let range = range(cursor)?;
    Ok(User { name, value, bounds, roles, range, level: level(cursor)? })
}

fn boolean(cursor: &mut Cursor<'_>) -> Result<Boolean> {
    let offset = cursor.offset();
    let [value, state, length] = cursor.words("boolean")?;
    let state = flag(offset + 4, "state of a boolean", state)?;
    Ok(Boolean { name: cursor.name(length, "name of a boolean")?, value, state })
}

fn sensitivity(cursor: &mut Cursor<'_>) -> Result<Sensitivity> {
    let offset = cursor.offset();
    let [length, alias] = cursor.words("sensitivity")?;
    let alias = flag(offset + 4, "alias flag of a sensitivity", alias)?;
    Ok(Sensitivity { name: cursor.name(length, "name of a sensitivity")?, alias, level: level(cursor)? })
}

fn category(cursor: &mut Cursor<'_>) -> Result<Category> {
    let offset = cursor.offset();
    let [length, value, alias] = cursor.words("category")?;
    let alias = flag(offset + 8, "alias flag of a category", alias)?;
    Ok(Category { name: cursor.name(length, "name of a category")?, value, alias })
}

fn level(cursor: &mut Cursor<'_>) -> Result<Level> {
    let sensitivity = cursor.word("level")?;
    Ok(Level { sensitivity, categories: Bitmap::read(cursor)? })
}

fn range(cursor: &mut Cursor<'_>) -> Result<Range> {
    let offset = cursor.offset();
    match cursor.word("range")? {
        1 => Ok(Range { low: level(cursor)?, high: None }),
        2 => {
            let [low, high] = cursor.words("sensitivities of a range")?;
            let low = Level { sensitivity: low, categories: Bitmap::read(cursor)? };
            let high = Level { sensitivity: high, categories: Bitmap::read(cursor)? };
            Ok(Range { low, high: Some(high) })
        }
        found => Err(value(offset, "levels of a range", "1 or 2", found)),
    }
}

fn context(cursor: &mut Cursor<'_>) -> Result<Context> {
    let [user, role, kind] = cursor.words("context")?;
    Ok(Context { user, role, kind, range: range(cursor)? })
}

#[inline]
fn rule(cursor: &mut Cursor<'_>, xperms: &mut Vec<Xperm>) -> Result<Rule> {
    let offset = cursor.offset();
    // No rule has fewer bytes than this.
    let [s0, s1, t0, t1, c0, c1, k0, k1, data @ ..] = cursor.array::<12>("access rule")?;
    let kind = u16::from_le_bytes([k0, k1]);
    let enabled = kind & 0x8000 != 0;
    let kind = RuleKind::of(kind & 0x7fff).ok_or_else(|| {
        value(offset + 6, "kind of an access rule", "exactly one kind, with bit 15 if enabled", kind.into())
    })?;
    let data = if kind.is_extended() {
        let place = xperms.len() as u32;
        xperms.push(xperm(cursor, offset + 8, data)?);
        place
    } else {
        u32::from_le_bytes(data)
    };
    Ok(Rule {
        source: u16::from_le_bytes([s0, s1]),
        target: u16::from_le_bytes([t0, t1]),
        class: u16::from_le_bytes([c0, c1]),
        kind,
        enabled,
        data,
    })
}

/// Extended permissions whose first four bytes, at `offset`, are read already.
fn xperm(cursor: &mut Cursor<'_>, offset: usize, [sort, driver, b0, b1]: [u8; 4]) -> Result<Xperm> {
    let sort = match sort {
        1 => XpermSort::IoctlFunction,
        2 => XpermSort::IoctlDriver,
        3 => XpermSort::Netlink,
        _ => return Err(value(offset, "sort of extended permissions", "1 to 3", sort.into())),
    };
    let [b2, b3] = cursor.array("extended permissions")?;
    let [second, third, fourth, fifth, sixth, seventh, eighth] = cursor.words("extended permissions")?;
    let first = u32::from_le_bytes([b0, b1, b2, b3]);
    Ok(Xperm { sort, driver, bits: [first, second, third, fourth, fifth, sixth, seventh, eighth] })
}

fn conditional(
    cursor: &mut Cursor<'_>,
    rules: &mut Vec<Rule>,
    xperms: &mut Vec<Xperm>,
) -> Result<Conditional> {
    let state = cursor.word("state of a conditional")?;
    let count = cursor.count("steps of a conditional", 8)?;
    let expression = cursor.list(count, |cursor| {
        let offset = cursor.offset();
        let [operator, boolean] = cursor.words("step of a conditional")?;
        let step = match operator {
            1 => Step::Boolean(boolean),
            2 => Step::Not,
            3 => Step::Or,
            4 => Step::And,
            5 => Step::Xor,
            6 => Step::Equal,
            7 => Step::Unequal,
            _ => return Err(value(offset, "operator of a conditional", "1 to 7", operator)),
        };
        Ok((step, boolean))
    })?;
    let mut branch = |cursor: &mut Cursor<'_>, what| {
        let count = cursor.count(what, 12)?;
        let start = rules.len();
        for _ in 0..count {
            rules.push(rule(cursor, xperms)?);
        }
        Ok(start..rules.len())
    };
    let yes = branch(cursor, "rules of a true branch")?;
    let no = branch(cursor, "rules of a false branch")?;
    Ok(Conditional { state, expression, yes, no })
}

fn named_transitions(cursor: &mut Cursor<'_>, version: u32) -> Result<Vec<NamedTransition>> {
    if version <= 32 {
        let count = cursor.count("transitions by name", 20)?;
        return cursor.list(count, |cursor| {
            let length = cursor.word("transition by name")?;
            let name = cursor.name(length, "name of a transition")?;
            let offset = cursor.offset();
            let [source, target, class, result] = cursor.words("transition by name")?;
            let Some(bit) = source.checked_sub(1) else {
                return Err(value(offset, "source of a transition by name", "1 or more", 0));
            };
            Ok(NamedTransition { name, target, class, results: vec![(Bitmap::of([bit]), result)] })
        });
    }
    let count = cursor.count("transitions by name", 16)?;
    cursor.list(count, |cursor| {
        let length = cursor.word("transition by name")?;
        let name = cursor.name(length, "name of a transition")?;
        let [target, class] = cursor.words("transition by name")?;
        let count = cursor.count("results of a transition by name", 16)?;
        let results =
            cursor.list(count, |cursor| Ok((Bitmap::read(cursor)?, cursor.word("type of a transition")?)))?;
        Ok(NamedTransition { name, target, class, results })
    })
}

fn read_ocontexts(cursor: &mut Cursor<'_>, version: u32) -> Result<Ocontexts> {
    let twice = |cursor: &mut Cursor<'_>| {
        let length = cursor.word("named context")?;
        let name = cursor.name(length, "name of a context")?;
        Ok(Twice { name, first: context(cursor)?, second: context(cursor)? })
    };
    let count = cursor.count("initial contexts", 36)?;
    let initial = cursor.list(count, |cursor| Ok((cursor.word("initial context")?, context(cursor)?)))?;
    let count = cursor.count("file system contexts", 68)?;
    let file_systems = cursor.list(count, twice)?;
    let count = cursor.count("port contexts", 44)?;
    let ports = cursor.list(count, |cursor| {
        let [protocol, low, high] = cursor.words("port context")?;
        Ok(Port { protocol, low, high, context: context(cursor)? })
    })?;
    let count = cursor.count("interface contexts", 68)?;
    let interfaces = cursor.list(count, twice)?;
    let count = cursor.count("node contexts", 40)?;
    let nodes = cursor.list(count, node)?;
    let count = cursor.count("file system behaviours", 40)?;
    let uses = cursor.list(count, |cursor| {
        let [behaviour, length] = cursor.words("file system behaviour")?;
        let name = cursor.name(length, "name of a file system")?;
        Ok(FsUse { behaviour, name, context: context(cursor)? })
    })?;
    let count = cursor.count("IPv6 node contexts", 64)?;
    let nodes6 = cursor.list(count, node)?;
    let (mut partition_keys, mut endports) = (Vec::new(), Vec::new());
    if version >= 31 {
        let count = cursor.count("partition key contexts", 48)?;
        partition_keys = cursor.list(count, |cursor| {
            let prefix = cursor.array("prefix of a partition key")?;
            let [low, high] = cursor.words("partition key")?;
            Ok(PartitionKey { prefix, low, high, context: context(cursor)? })
        })?;
        let count = cursor.count("InfiniBand port contexts", 40)?;
        endports = cursor.list(count, |cursor| {
            let [length, port] = cursor.words("InfiniBand port")?;
            let name = cursor.name(length, "name of an InfiniBand device")?;
            Ok(Endport { name, port, context: context(cursor)? })
        })?;
    }
    Ok(Ocontexts { initial, file_systems, ports, interfaces, nodes, uses, nodes6, partition_keys, endports })
}

fn node<const N: usize>(cursor: &mut Cursor<'_>) -> Result<Node<N>> {
    let address = cursor.array("address of a node")?;
    let mask = cursor.array("mask of a node")?;
    Ok(Node { address, mask, context: context(cursor)? })
}

fn file_system(cursor: &mut Cursor<'_>) -> Result<FileSystem> {
    let length = cursor.word("file system with paths")?;
    let name = cursor.name(length, "name of a file system")?;
    let count = cursor.count("paths of a file system", 40)?;
    let paths = cursor.list(count, |cursor| {
        let length = cursor.word("path")?;
        let path = cursor.name(length, "path")?;
        Ok(Path { path, class: cursor.word("class of a path")?, context: context(cursor)? })
    })?;
    Ok(FileSystem { name, paths })
}
