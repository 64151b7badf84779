"""The text of the generated requests: topics x templates x angles, for each job category.

The sentences are driftkit's own.  They stand for the kind of prompt that the paper's load
generator sends: infrastructure topics, five templates for each of four categories, and a prefix
that names request, tenant and category.  An angle (an audience, a constraint or a setting) keeps
the texts apart, so that few prompts of a run are equal.

Topics are singular noun phrases without an article, and angles are phrases that can follow a
topic or a verb, so that every combination reads as a sentence.  The words that the category
classifier counts ("summary", "report", "code", ...) stay out of both, but for one topic:
"infrastructure as code" makes a short question look technical, as it would in real traffic.
"""

from collections.abc import Mapping, Sequence
from typing import Final

TOPICS: Final[Sequence[str]] = (
    # compute
    "container orchestration",
    "pod autoscaling",
    "node draining",
    "cluster upgrade planning",
    "workload bin packing",
    "GPU sharing",
    "batch job scheduling",
    "virtual machine migration",
    "serverless cold-start reduction",
    "spot instance management",
    "capacity planning",
    # network
    "load balancing",
    "service discovery",
    "DNS failover",
    "service mesh routing",
    "TLS certificate rotation",
    "rate limiting",
    "API gateway management",
    "content delivery caching",
    "network segmentation",
    "private network peering",
    "connection pooling",
    "denial-of-service protection",
    # storage and data
    "database replication",
    "database sharding",
    "schema migration",
    "object storage tiering",
    "backup verification",
    "point-in-time recovery",
    "block storage provisioning",
    "cache invalidation",
    "write-ahead logging",
    "change data capture",
    "stream processing",
    "message queueing",
    # reliability
    "circuit breaking",
    "retry with exponential backoff",
    "graceful shutdown",
    "health checking",
    "chaos testing",
    "disaster recovery",
    "leader election",
    "distributed locking",
    "multi-region failover",
    "error budgeting",
    # observability
    "distributed tracing",
    "log aggregation",
    "metrics collection",
    "alert routing",
    "synthetic monitoring",
    # delivery
    "infrastructure as code",
    "canary deployment",
    "blue-green deployment",
    "feature flagging",
    "configuration drift detection",
    # security
    "container image scanning",
    "secret management",
    "identity federation",
    "role-based access control",
)

ANGLES: Final[Sequence[str]] = (
    # for whom
    "for a team of five engineers",
    "for a start-up without a platform team",
    "for a bank that audits every change",
    "for a hospital that keeps patient data on site",
    "for an online shop before the holiday peak",
    "for a game studio with sudden launch-day traffic",
    "for a public agency with a fixed yearly budget",
    "for a university lab with shared hardware",
    "for a video service with viewers on four continents",
    "for a logistics firm that never closes",
    # where
    "on a cluster that spans two regions",
    "on bare-metal servers in one data centre",
    "on a mix of cloud and on-premises machines",
    "on a single large virtual machine",
    "on edge sites with unreliable links",
    "on a network cut off from the internet",
    "on rented capacity that can vanish at any time",
    "on ARM servers next to older x86 ones",
    "in a Kubernetes cluster with two hundred nodes",
    "in a product that must never stop for maintenance",
    "in a shared environment with noisy neighbours",
    "in a company that has just merged with another",
    "in a system that handles card payments",
    "in a fleet of forty thousand sensors",
    "across three teams that release on their own schedules",
    "across a dozen small business units",
    # within which limits
    "under a strict limit on monthly spending",
    "under a latency target of fifty milliseconds",
    "under an availability goal of 99.95 percent",
    "under rules that keep data inside one country",
    "with only open-source tools",
    "with no downtime during working hours",
    "with traffic that triples every Monday morning",
    "with one engineer on call at night",
    "with legacy services that nobody dares to touch",
    "with several hundred tenants on one platform",
    # when
    "after a long outage last month",
    "after a year of very fast growth",
    "during a move from one cloud provider to another",
    "during a quarter with a hiring freeze",
)

TEMPLATES: Final[Mapping[str, Sequence[str]]] = {
    "short_qa": (
        "In one or two sentences, what is the main benefit of {topic} {angle}?",
        "What is the most common mistake to avoid in {topic} {angle}, and why?",
        "Is {topic} {angle} worth the effort, or is there something simpler we should try first?",
        "Which single metric tells me soonest that {topic} {angle} is going wrong? One line is enough.",
        "Quick question: who should own {topic} {angle}, and how often should they review it?",
    ),
    "summary": (
        "Summarize how {topic} works {angle}. Keep it to five bullet points, put the most "
        "important one first, and leave out vendor names.",
        "I missed the meeting about {topic} {angle}. Write a short summary of the usual "
        "arguments for and against it, so that I can catch up before tomorrow.",
        "In one paragraph, please summarize the main risks of {topic} {angle}. Then name the two "
        "that deserve attention first and say why in plain words.",
        "Prepare a summary of current good practice in {topic} {angle}. The readers know the "
        "basics and have ten minutes, so skip the definitions and end with three next steps.",
        "Our notes on {topic} {angle} have grown too long. Give me a summary of about a hundred "
        "words that keeps the decisions and drops the history.",
    ),
    "technical": (
        "Explain the architecture behind {topic} {angle}. Name the components, describe how a "
        "request passes through them, and point out which parts hold state and what happens when "
        "one of them fails.",
        "Give a technical explanation of how {topic} behaves {angle} when the load doubles within "
        "a minute. Cover queues, timeouts and back-pressure, and say which settings you would "
        "change first.",
        "Show code that puts {topic} into practice {angle}. Use Python or Go, handle errors and "
        "cancellation properly, and explain after the code which parts you left out and how to "
        "test them.",
        "We need a technical design for {topic} {angle}. Compare two workable options by failure "
        "modes, operating cost and ease of rollback, then pick one and describe its interfaces "
        "and data flow.",
        "Review our architecture for {topic} {angle} as a senior engineer would. List the "
        "technical questions you would ask, the limits you expect us to hit, and a detailed "
        "check for each limit.",
    ),
    "report": (
        "Write a detailed report on {topic} {angle}. Start with a one-page summary for directors, "
        "then cover the present state, the main options, their costs and risks, and a plan for "
        "the next two quarters. Close with the open questions and who should answer them.",
        "Prepare a comprehensive report about {topic} {angle}. Explain the background, go through "
        "the alternatives one by one, weigh what each means for security and staffing, and finish "
        "with a recommendation, a timeline by month and a list of measures that show success.",
        "I need a report that compares three approaches to {topic} {angle}. For each one, give "
        "the set-up work, the running cost, the behaviour during failures and the skills it "
        "demands, add a table of the differences, and argue for the one you would choose.",
        "Draft a detailed assessment of {topic} {angle} for our yearly planning round. Describe "
        "what works today, where the weak points are, which changes to tools and habits would "
        "help most, what they would cost, and how we should measure progress over the year.",
        "Produce a comprehensive review of {topic} {angle} that both engineers and executives can "
        "use. The report should have sections on goals, current practice, incidents, cost, "
        "technical debt and people, and each section should end with one concrete proposal.",
    ),
}


def body(category: str, topic_u: float, template_u: float, angle_u: float) -> str:
    """The request itself; each ``u``, in [0, 1), chooses one entry of its table.

    An unknown category raises ``KeyError``.
    """
    templates = TEMPLATES[category]
    return templates[int(template_u * len(templates))].format(
        topic=TOPICS[int(topic_u * len(TOPICS))],
        angle=ANGLES[int(angle_u * len(ANGLES))],
    )


def prompt(number: int, tenant: str, category: str, topic_u: float, template_u: float, angle_u: float) -> str:
    """The whole prompt of request ``number``: the prefix, then the body."""
    prefix = f"Request ID {number}. Tenant {tenant}. Job type {category}. "
    return prefix + body(category, topic_u, template_u, angle_u)
