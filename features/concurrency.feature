Feature: Concurrent requests
  Sequences share steps and one KV cache; no text depends on the other sequences in the batch.

  Scenario: sixteen concurrent completions equal the same completions run alone
    Given sixteen prompts
    When each prompt is completed alone
    And all prompts are completed concurrently
    Then the concurrent texts equal the texts completed alone

  Scenario: a seed produces the same text alone, concurrently, with the prompt cache, and in a stream
    Given sixteen prompts
    And each with its own seed and sampling parameters
    When each prompt is completed alone
    And all prompts are completed concurrently
    Then the concurrent texts equal the texts completed alone
    When all prompts are completed concurrently with the prompt cache
    Then the concurrent texts equal the texts completed alone
    When all prompts are streamed concurrently
    Then the concurrent texts equal the texts completed alone

  Scenario: preemption because of a full KV cache does not change the text
    Given a server whose KV cache holds one context
    And eight prompts that each need more than a third of the KV cache
    When each prompt is completed alone
    And all prompts are completed concurrently
    Then the concurrent texts equal the texts completed alone
    And some sequences were preempted

  Scenario: a queued request with a higher priority starts first
    Given a client that reads an endless stream in slot 0
    And a queued request for slot 0, then one with a higher priority
    When the client of the endless stream disconnects
    Then the request with the higher priority finishes first
