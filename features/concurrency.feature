Feature: Many at once
  They share every step and one cache, and nobody notices.

  Scenario: Sixteen together say what each says alone
    Given sixteen prompts
    When each is continued alone
    And all are continued at once
    Then the texts are the same

  Scenario: The same seed, the same text: alone, together, from the cache, streamed
    Given sixteen prompts
    And each with a seed and a way to choose of its own
    When each is continued alone
    And all are continued at once
    Then the texts are the same
    When all are continued at once, from the cache
    Then the texts are the same
    When all are streamed at once
    Then the texts are the same

  Scenario: Eight who want three times the cache
    Given a server whose cache has room for one context
    And eight prompts, each of a third of the cache with its answer
    When each is continued alone
    And all are continued at once
    Then the texts are the same
    And some of them yielded to others on the way

  Scenario: Who says that it is more urgent is begun first
    Given a client that reads an endless stream in the slot 0
    And a client that waits for the slot 0, and then a more urgent one
    When the endless stream is left
    Then the more urgent one is answered first
