Feature: Rerank API
  Documents are ranked by the similarity of their embeddings to the query's.

  Background:
    Given a server with an embedding model

  Scenario: /v1/rerank returns the most similar document first
    When I post to "/v1/rerank" as "application/json":
      """
      {"model": "any", "query": "Which bird sings?", "documents": [
        "The quarterly tax return is due on Friday.",
        {"text": "A small bird sings in the hedge."},
        "Oil became cheaper by three percent."]}
      """
    Then the status is 200
    And the response's "object" is "list"
    And the response's "model" is "smollm2"
    And the response's "results" has 3 entries
    And the response's "results.0.index" is 1
    And the results are in descending order of relevance
    And the response has no "results.0.document"

  Scenario: top_n limits the results, and return_documents adds their texts
    When I post to "/v1/rerank" as "application/json":
      """
      {"query": "bird", "documents": ["tax", "bird", "hedge"], "top_n": 1, "return_documents": true, "rank_fields": []}
      """
    Then the status is 200
    And the response's "results" has 1 entries
    And the response's "results.0.document.text" is "bird"
    And the response's "usage.total_tokens" is 12
    And the header "x-ortolan-ignored" is "rank_fields"

  Scenario Outline: /v1/rerank rejects an invalid request: <problem>
    When I post to "/v1/rerank" as "application/json":
      """
      {<body>}
      """
    Then the status is 400
    And the error's param is "<param>"

    Examples:
      | problem               | body                                             | param     |
      | documents is empty    | "query": "a", "documents": []                    | documents |
      | query is missing      | "documents": ["a"]                               | query     |
      | top_n is 0            | "query": "a", "documents": ["a"], "top_n": 0     | top_n     |
      | documents are missing | "query": "a"                                     | documents |
      | documents and texts   | "query": "a", "documents": ["a"], "texts": ["a"] | texts     |
      | texts is empty        | "query": "a", "texts": []                        | texts     |
      | truncate              | "query": "a", "texts": ["a"], "truncate": true   | truncate  |

  Scenario Outline: <path> is an alias of /v1/rerank
    When I post to "<path>" as "application/json":
      """
      {"query": "bird", "documents": ["tax", "bird"]}
      """
    Then the status is 200
    And the response's "results.0.index" is 1

    Examples:
      | path          |
      | /rerank       |
      | /reranking    |
      | /v1/reranking |

  Scenario: /rerank accepts the format of Text Embeddings Inference
    When I post to "/rerank" as "application/json":
      """
      {"query": "bird", "texts": ["tax", "bird"], "raw_scores": true}
      """
    Then the status is 200
    And the response has 2 entries
    And the response's "0.index" is 1
    And the response's "0.score" is 1
    And the response has no "0.text"
    And the header "x-ortolan-ignored" is "raw_scores"
    When I post to "/rerank" as "application/json":
      """
      {"query": "bird", "texts": ["tax", "bird"], "return_text": true, "top_n": 1}
      """
    Then the response has 1 entries
    And the response's "0.text" is "bird"

  Scenario: /v1/rerank of a generative model gets 501 without --embedding
    Given a server with all optional endpoints disabled
    When I post to "/v1/rerank" as "application/json":
      """
      {"query": "a", "documents": ["a"]}
      """
    Then the status is 501
