Feature: Which documents answer a query best
  They are in the order of how near their embeddings are to the query's.

  Background:
    Given a server with a model of embeddings

  Scenario: The nearest first
    When I post to "/v1/rerank" as "application/json":
      """
      {"model": "any", "query": "Which bird sings?", "documents": [
        "The quarterly tax return is due on Friday.",
        {"text": "A small bird sings in the hedge."},
        "Oil became cheaper by three percent."]}
      """
    Then the status is 200
    And the answer's "object" is "list"
    And the answer's "model" is "smollm2"
    And the answer's "results" has 3 entries
    And the answer's "results.0.index" is 1
    And the relevance falls from each result to the next
    And the answer has no "results.0.document"

  Scenario: Some of them, with their texts
    When I post to "/v1/rerank" as "application/json":
      """
      {"query": "bird", "documents": ["tax", "bird", "hedge"], "top_n": 1, "return_documents": true, "rank_fields": []}
      """
    Then the status is 200
    And the answer's "results" has 1 entries
    And the answer's "results.0.document.text" is "bird"
    And the answer's "usage.total_tokens" is 12
    And the header "x-ortolan-ignored" is "rank_fields"

  Scenario Outline: What cannot be ranked: <what>
    When I post to "/v1/rerank" as "application/json":
      """
      {<body>}
      """
    Then the status is 400
    And the error's param is "<param>"

    Examples:
      | what         | body                             | param     |
      | no documents | "query": "a", "documents": []    | documents |
      | no query     | "documents": ["a"]               | query     |
      | none wanted  | "query": "a", "documents": ["a"], "top_n": 0 | top_n |
      | nothing      | "query": "a"                     | documents |
      | both forms   | "query": "a", "documents": ["a"], "texts": ["a"] | texts |
      | no texts     | "query": "a", "texts": []        | texts     |
      | cut texts    | "query": "a", "texts": ["a"], "truncate": true | truncate |

  Scenario Outline: Another path: <path>
    When I post to "<path>" as "application/json":
      """
      {"query": "bird", "documents": ["tax", "bird"]}
      """
    Then the status is 200
    And the answer's "results.0.index" is 1

    Examples:
      | path          |
      | /rerank       |
      | /reranking    |
      | /v1/reranking |

  Scenario: The form of Text Embeddings Inference
    When I post to "/rerank" as "application/json":
      """
      {"query": "bird", "texts": ["tax", "bird"], "raw_scores": true}
      """
    Then the status is 200
    And the answer has 2 entries
    And the answer's "0.index" is 1
    And the answer's "0.score" is 1
    And the answer has no "0.text"
    And the header "x-ortolan-ignored" is "raw_scores"
    When I post to "/rerank" as "application/json":
      """
      {"query": "bird", "texts": ["tax", "bird"], "return_text": true, "top_n": 1}
      """
    Then the answer has 1 entries
    And the answer's "0.text" is "bird"

  Scenario: A decoder ranks only if it is to embed
    Given a server that answers nothing that can be switched off
    When I post to "/v1/rerank" as "application/json":
      """
      {"query": "a", "documents": ["a"]}
      """
    Then the status is 501
