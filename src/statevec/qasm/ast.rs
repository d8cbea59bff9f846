//! The tree of a statement, as written: names are not looked up and nothing is computed.

use super::lexer::Position;

#[derive(Clone, Debug)]
pub(super) struct Expression {
    pub(super) at: Position,
    /// Height of the tree: bounded, because everything that walks it recurses.
    pub(super) height: usize,
    pub(super) node: Node,
}

impl Expression {
    /// Where its text starts; a binary operation is reported at its operator otherwise.
    pub(super) fn start(&self) -> Position {
        match &self.node {
            Node::Binary(_, left, _) => left.start(),
            _ => self.at,
        }
    }
}

#[derive(Clone, Debug)]
pub(super) enum Node {
    Integer(u64),
    Real(f64),
    Boolean(bool),
    /// A bit string literal, most significant bit first.
    Bits(String),
    Name(String),
    Index(String, Box<Expression>),
    Unary(&'static str, Box<Expression>),
    Binary(&'static str, Box<Expression>, Box<Expression>),
    /// A function or a cast.
    Call(String, Vec<Expression>),
}

/// `name`, `name[i]`, `name[a:b]`, `name[{i, j}]`.
#[derive(Clone, Debug)]
pub(super) struct Operand {
    pub(super) at: Position,
    pub(super) name: String,
    pub(super) selector: Option<Selector>,
}

#[derive(Clone, Debug)]
pub(super) enum Selector {
    One(Expression),
    Range(Range),
    Set(Vec<Expression>),
}

/// `start:step:stop`, both ends included.
#[derive(Clone, Debug)]
pub(super) struct Range {
    pub(super) at: Position,
    pub(super) start: Option<Expression>,
    pub(super) step: Option<Expression>,
    pub(super) stop: Option<Expression>,
}

#[derive(Clone, Debug)]
pub(super) enum Modifier {
    /// Value the controls must have, and how many there are.
    Control(bool, Option<Expression>),
    Inverse,
    Power(Expression),
}

/// A gate applied to operands.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) at: Position,
    pub(super) name: String,
    pub(super) modifiers: Vec<Modifier>,
    pub(super) arguments: Vec<Expression>,
    pub(super) operands: Vec<Operand>,
}

#[derive(Clone, Debug)]
pub(super) struct GateDefinition {
    pub(super) name: String,
    pub(super) parameters: Vec<(String, Position)>,
    pub(super) qubits: Vec<(String, Position)>,
    /// `None` for an opaque gate.
    pub(super) body: Option<Vec<Statement>>,
}

/// Types of constants and inputs, as far as they matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Integer,
    Unsigned,
    Real,
    Boolean,
}

#[derive(Clone, Debug)]
pub(super) enum Values {
    Range(Range),
    Set(Vec<Expression>),
}

#[derive(Clone, Debug)]
pub(super) struct Statement {
    pub(super) at: Position,
    pub(super) kind: StatementKind,
}

#[derive(Clone, Debug)]
pub(super) enum StatementKind {
    Include(String),
    Qubits { name: String, size: Option<Expression> },
    Bits { name: String, size: Option<Expression>, measured: Option<Operand> },
    Constant { name: String, of: Type, value: Expression },
    Input { name: String, length: Option<Expression> },
    Alias { name: String, parts: Vec<Operand> },
    Gate(GateDefinition),
    Call(Call),
    Measure { source: Operand, target: Option<Operand> },
    Reset(Operand),
    Barrier(Vec<Operand>),
    If { condition: Expression, then: Vec<Statement>, otherwise: Vec<Statement> },
    For { variable: String, values: Values, body: Vec<Statement> },
}
